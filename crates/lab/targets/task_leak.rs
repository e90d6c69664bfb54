//! Each of ten requests a second starts a thread that waits, with its 64 KiB, for a message whose sender is kept by a list
//! that nobody looks at.

use std::{hint::black_box, sync::mpsc, thread, time::Duration};

fn wait_for_order(orders: mpsc::Receiver<u8>) {
    let session = black_box(vec![1_u8; 64 << 10]);
    for order in orders {
        println!("{order} {}", session.len());
    }
}

fn main() {
    let mut senders = Vec::new();
    for turn in 0.. {
        let (sender, orders) = mpsc::channel();
        senders.push(sender);
        thread::Builder::new().name("session".to_owned()).spawn(move || wait_for_order(orders)).unwrap();
        if turn == 20 {
            println!("ready");
        }
        thread::sleep(Duration::from_millis(100));
    }
}
