//! An echo server on one thread without a runtime. Every connection may be silent for 2 s, and its answers have 1 s to
//! be taken; the client is a thread that blocks.
//!
//! `cargo run --example direct --features direct`

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    thread,
    time::Duration,
};

use overdue::{
    Error, Limit, LimitName,
    direct::{Events, Interest, Listener, Poller, Stream},
};

fn main() -> io::Result<()> {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into())?;
    let address = listener.local_addr().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let client = thread::spawn(move || client(address));

    let (mut poller, mut events) = (Poller::new()?, Events::new());
    let listening = poller.add(listener, Interest::Read)?;
    let mut open = 0;
    let mut served = 0;
    while served == 0 || open > 0 {
        poller.wait(&mut events, Duration::from_secs(10))?;
        for event in &events {
            if event.token() == listening {
                let Some(Ok(stream)) = poller.listener(listening).map(Listener::try_accept) else { continue };
                stream.handle().set_read_idle(Some(Limit::new(LimitName::Gap, Duration::from_secs(2))));
                poller.add(stream, Interest::Read)?;
                (open, served) = (open + 1, served + 1);
            } else if let Some(stream) = poller.stream(event.token())
                && !echo(stream)
            {
                poller.remove(event.token());
                open -= 1;
            }
        }
    }
    client.join().map_err(|_| io::Error::other("the client panicked"))?
}

/// Answers what is here; false when there will be no more.
fn echo(stream: &Stream) -> bool {
    let mut buf = [0; 4096];
    let answered = stream.try_read(&mut buf).and_then(|bytes| {
        stream.set_write_deadline(Duration::from_secs(1));
        (&*stream).write_all(buf.get(..bytes).unwrap_or_default())?;
        Ok(bytes > 0)
    });
    answered.unwrap_or_else(|err| {
        if err.kind() != io::ErrorKind::WouldBlock {
            eprintln!("server: {err}");
        }
        err.kind() == io::ErrorKind::WouldBlock
    })
}

fn client(address: SocketAddr) -> io::Result<()> {
    let mut stream = Stream::connect(address, Duration::from_secs(5))?;
    stream.set_deadline(Duration::from_millis(200));
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    println!("client: {}", String::from_utf8_lossy(&answer));
    // Nothing more comes.
    match stream.read(&mut answer) {
        Err(err) if err.kind() == io::ErrorKind::TimedOut => {
            println!("client: {err}");
            if let Some(fix) = Error::find(&err).and_then(|error| error.report().verdicts.first()) {
                println!("client: to fix it: {}", fix.fix);
            }
            Ok(())
        }
        other => other.map(drop),
    }
}
