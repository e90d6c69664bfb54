//! What a Linux kernel writes about sockets, read from bytes. Pure: nothing is asked here.

pub mod netlink;
pub mod tcp_info;

#[cfg(test)]
mod tests;
