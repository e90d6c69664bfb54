//! A client that uploads, with a limit of a minute for each write, to a peer that does not read.

use std::{env, io::Write, net::TcpStream, time::Duration};

fn main() {
    let port: u16 = env::args().nth(1).unwrap().parse().unwrap();
    loop {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
        connection.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        while connection.write_all(&[0; 64 << 10]).is_ok() {}
    }
}
