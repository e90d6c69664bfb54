//! A tokio server with two worker threads, whose handler calls what blocks: a worker stands for 400 ms with each request.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime,
};

static HANDLED: AtomicU32 = AtomicU32::new(0);

#[inline(never)]
fn load_profile() {
    thread::sleep(Duration::from_millis(400));
}

async fn serve(mut connection: TcpStream) {
    while let Ok(1..) = connection.read(&mut [0; 2048]).await {
        load_profile();
        if connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n").await.is_err() {
            return;
        }
        if HANDLED.fetch_add(1, Ordering::Relaxed) == 4 {
            println!("ready");
        }
    }
}

async fn accept() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening {}", listener.local_addr().unwrap().port());
    while let Ok((connection, _)) = listener.accept().await {
        tokio::spawn(serve(connection));
    }
}

fn main() {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(accept());
}
