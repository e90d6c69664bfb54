//! A healthy program: sixteen workers are started one after another, and wait for jobs from then on. That is neither a leak
//! nor a backlog.

use std::{
    sync::{
        mpsc::{channel, RecvTimeoutError},
        Arc, Mutex,
    },
    thread,
    time::Duration,
};

fn main() {
    let (jobs, queue) = channel::<u64>();
    let queue = Arc::new(Mutex::new(queue));
    let work = move || loop {
        let job = queue.lock().unwrap().recv_timeout(Duration::from_secs(5));
        if job == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    };
    println!("ready");
    for job in 0.. {
        if job < 16 {
            thread::Builder::new().name("worker".to_owned()).spawn(work.clone()).unwrap();
        }
        jobs.send(job).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
}
