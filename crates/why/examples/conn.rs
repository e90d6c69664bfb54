#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::disallowed_methods, clippy::cast_possible_truncation)]
use overdue_why::collect::{Connections, Kernel, Target};
use std::time::{Duration, Instant};
fn main() {
    let pid: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let secs: f64 = std::env::args().nth(2).unwrap().parse().unwrap();
    let kernel = Kernel::new().unwrap();
    let target = Target::new(pid).unwrap();
    let begun = Instant::now();
    let mut c = Connections::attach(&kernel, &target).unwrap();
    eprintln!("attached in {:?} {:?}", begun.elapsed(), c.hidden());
    while begun.elapsed().as_secs_f64() < secs {
        std::thread::sleep(Duration::from_millis(100));
        c.look(begun.elapsed().as_micros() as u64);
    }
    eprintln!("dropped {}", c.dropped());
    let t = Instant::now();
    let seen = c.finish();
    eprintln!("finish in {:?}", t.elapsed());
    println!("{}", serde_json::to_string_pretty(&seen).unwrap());
}
