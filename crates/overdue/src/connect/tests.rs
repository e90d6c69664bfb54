use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use overdue_core::{
    Limit, LimitName,
    facts::{Failure, OsFailure, TcpState},
};
use overdue_lab::Fault;
use tokio::{net::TcpListener, time::timeout};

use super::{Failed, Race, TcpOptions};
use crate::{clock, wire::Wire};

async fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A port that refuses for as long as the fault lives.
fn refusing() -> Fault {
    Fault::start(overdue_lab::find("refused").unwrap()).unwrap()
}

/// A port whose SYNs nobody answers, for as long as the fault lives.
fn silent() -> Fault {
    Fault::start(overdue_lab::find("backlog-full").unwrap()).unwrap()
}

async fn run(race: &mut Race<'_>) -> Result<Wire, Failed> {
    timeout(Duration::from_secs(10), poll_fn(|cx| race.poll(cx))).await.expect("the race ends")
}

async fn race(addrs: Vec<SocketAddr>, options: &TcpOptions) -> Result<Wire, Failed> {
    run(&mut Race::new(addrs, options, None)).await
}

#[tokio::test]
async fn a_refused_address_gives_way_at_once() {
    let (_listener, good) = listening().await;
    let refusing = refusing();
    let started = clock::now();
    let wire = race(vec![refusing.addr(), good], &TcpOptions::default()).await.ok().unwrap();
    assert_eq!(wire.peer().to_string(), good.to_string());
    // The next address does not wait for its turn after a failure.
    assert!(clock::now() - started < super::ATTEMPT_DELAY);
}

#[tokio::test]
async fn a_silent_address_is_joined_by_the_next() {
    let (_listener, good) = listening().await;
    let silent = silent();
    let started = clock::now();
    let wire = race(vec![silent.addr(), good], &TcpOptions::default()).await.ok().unwrap();
    assert_eq!(wire.peer().to_string(), good.to_string());
    assert!(clock::now() - started >= super::ATTEMPT_DELAY);
}

#[tokio::test]
async fn a_slow_address_is_not_given_up_for_the_next() {
    // The silent one becomes good after the refusal of the other.
    let drained = Fault::start(overdue_lab::find("connect-slow").unwrap()).unwrap();
    let refusing = refusing();
    let wire = race(vec![drained.addr(), refusing.addr()], &TcpOptions::default()).await.ok().unwrap();
    assert_eq!(wire.peer().to_string(), drained.addr().to_string());
}

#[tokio::test]
async fn an_attempt_has_its_own_limit() {
    let (_listener, good) = listening().await;
    let silent = silent();
    let limit = Limit::new(LimitName::ConnectAttempt, Duration::from_millis(40));
    let options = TcpOptions::default();
    let mut only = Race::new(vec![silent.addr()], &options, Some(&limit));
    let failed = run(&mut only).await.err().unwrap();
    assert_eq!(failed.failure, Failure::DeadlinePassed(limit.clone()));
    assert_eq!(failed.socket.tcp.unwrap().state, TcpState::SynSent);

    let mut both = Race::new(vec![silent.addr(), good], &options, Some(&limit));
    let started = clock::now();
    assert!(run(&mut both).await.is_ok());
    assert!(clock::now() - started < super::ATTEMPT_DELAY, "the limit made room before the delay did");
}

#[tokio::test]
async fn of_several_failures_the_one_that_says_most_is_told() {
    let refusing = refusing();
    // No route: 240.0.0.0/4 is reserved, and Linux refuses to send there or has no route to it.
    let unroutable = SocketAddr::from((Ipv4Addr::new(255, 255, 255, 255), 9));
    let failed = race(vec![refusing.addr(), unroutable], &TcpOptions::default()).await.err().unwrap();
    assert!(matches!(failed.failure, Failure::Os { kind: OsFailure::Refused, .. }), "{:?}", failed.failure);
    assert_eq!(failed.socket.peer, refusing.addr().to_string());
}

#[tokio::test]
async fn what_runs_can_be_asked_why() {
    let silent = silent();
    let options = TcpOptions::default();
    let mut race = Race::new(vec![silent.addr()], &options, None);
    let pending = timeout(Duration::from_millis(50), poll_fn(|cx| race.poll(cx))).await;
    assert!(pending.is_err());
    let facts = race.observe().unwrap();
    assert_eq!(facts.tcp.unwrap().state, TcpState::SynSent);
    assert!(facts.listener.unwrap().is_full(), "the listener is on this host, and its queue is seen");
}

#[tokio::test]
async fn no_address_is_an_error() {
    let failed = race(Vec::new(), &TcpOptions::default()).await.err().unwrap();
    assert!(matches!(failed.failure, Failure::Other(_)));
}

#[tokio::test]
async fn options_reach_the_socket() {
    let (_listener, good) = listening().await;
    let seen = Arc::new(Mutex::new(None));
    let hook_saw = Arc::clone(&seen);
    let options = TcpOptions {
        user_timeout: Some(Duration::from_secs(7)),
        bind: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))),
        before_connect: Some(Arc::new(move |socket, addr| {
            let found = (addr, socket.tcp_nodelay()?, socket.keepalive()?, socket.tcp_user_timeout()?);
            *hook_saw.lock().unwrap() = Some(found);
            Ok(())
        })),
        ..TcpOptions::default()
    };
    // An address of the other family cannot be reached from the bound one, and is not tried.
    let other_family = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], good.port()));
    let wire = race(vec![other_family, good], &options).await.ok().unwrap();
    assert_eq!(wire.local().unwrap().ip(), Ipv4Addr::new(127, 0, 0, 2));
    assert_eq!(seen.lock().unwrap().unwrap(), (good, true, true, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn a_hook_that_refuses_is_named() {
    let (_listener, good) = listening().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let options = TcpOptions {
        before_connect: Some(Arc::new(move |_, _| {
            counted.fetch_add(1, SeqCst);
            Err(std::io::Error::other("not on this network"))
        })),
        ..TcpOptions::default()
    };
    let failed = race(vec![good, good], &options).await.err().unwrap();
    assert_eq!(calls.load(SeqCst), 2);
    let Failure::Os { operation, text, .. } = failed.failure else { panic!("{:?}", failed.failure) };
    assert_eq!((operation, text.as_str()), ("the before_connect hook", "not on this network"));
}
