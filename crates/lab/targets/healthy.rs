//! A healthy server: a thread for each connection, an answer to each request.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

fn serve(mut connection: TcpStream) {
    connection.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    while let Ok(1..) = connection.read(&mut [0; 2048]) {
        if connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n").is_err() {
            return;
        }
    }
}

fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("listening {}", listener.local_addr().unwrap().port());
    println!("ready");
    for connection in listener.incoming().flatten() {
        thread::spawn(|| serve(connection));
    }
}
