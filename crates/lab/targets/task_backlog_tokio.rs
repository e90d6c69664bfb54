//! Fifty tasks more each second wait for the one permit; who holds it waits for a peer that does not answer.

use std::{env, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    sync::Semaphore,
    time,
};

async fn reserve_stock(permits: Arc<Semaphore>, port: u16) {
    let _permit = permits.acquire().await.unwrap();
    let mut warehouse = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    warehouse.write_all(b"GET /stock HTTP/1.1\r\nhost: lab\r\n\r\n").await.unwrap();
    let mut answer = [0; 2048];
    time::timeout(Duration::from_secs(100), warehouse.read(&mut answer)).await.ok();
}

async fn run(port: u16) {
    let permits = Arc::new(Semaphore::new(1));
    for turn in 0.. {
        tokio::spawn(reserve_stock(permits.clone(), port));
        if turn == 50 {
            println!("ready");
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

fn main() {
    let port = env::args().nth(1).unwrap().parse().unwrap();
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(port));
}
