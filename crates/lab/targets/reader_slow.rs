//! A client that reads a kilobyte of a long body each second. What has arrived lies in its receive queue.

use std::{
    env,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

fn index_block(_: &[u8]) {
    thread::sleep(Duration::from_secs(1));
}

fn main() {
    let port: u16 = env::args().nth(1).unwrap().parse().unwrap();
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.write_all(b"GET /archive HTTP/1.1\r\nhost: lab\r\n\r\n").unwrap();
    let mut block = [0; 1024];
    loop {
        connection.read_exact(&mut block).unwrap();
        index_block(&block);
    }
}
