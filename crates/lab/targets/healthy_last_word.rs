//! A healthy server: its clients had the last word, as on a websocket, and are listened to by one loop. Its workers wait
//! for jobs, one at the queue and the others for its lock. That looks like requests whose handlers wait for a lock.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{mpsc::channel, Arc, Mutex},
    thread,
};

const CLIENTS: usize = 4;

#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    came: i16,
}

extern "C" {
    fn poll(fds: *mut PollFd, count: u64, timeout_ms: i32) -> i32;
}

fn main() {
    let (jobs, queue) = channel::<u64>();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..8 {
        let queue = Arc::clone(&queue);
        let work = move || while queue.lock().unwrap().recv().is_ok() {};
        thread::Builder::new().name("worker".to_owned()).spawn(work).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("listening {}", listener.local_addr().unwrap().port());
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| listener.accept().unwrap().0).collect();
    let mut heard = 0;
    loop {
        let mut fds: Vec<PollFd> =
            clients.iter().map(|client| PollFd { fd: client.as_raw_fd(), events: 1, came: 0 }).collect();
        // SAFETY: the array lives as long as the call, and has so many members.
        unsafe { poll(fds.as_mut_ptr(), fds.len() as u64, -1) };
        for (client, fd) in clients.iter_mut().zip(fds) {
            let mut message = [0; 2048];
            if fd.came != 0 && client.read(&mut message).unwrap() == 0 {
                return;
            }
            if fd.came != 0 {
                jobs.send(heard).unwrap();
                heard += 1;
                if heard == CLIENTS as u64 {
                    println!("ready");
                }
            }
        }
    }
}
