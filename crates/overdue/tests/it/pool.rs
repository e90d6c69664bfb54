use std::{
    sync::Arc,
    task::{Context as TaskContext, Wake, Waker},
};

use overdue::{Cause, Client, Context, Limit, PoolOptions, Stage};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use crate::{
    comes_true, finish, ms, poll_once, root, runtime,
    server::{OK, Server},
};

/// Answers a request only when the test permits it.
async fn gated() -> (Server, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    let server = Server::start(move |mut peer, _| {
        let gate = Arc::clone(&permits);
        async move {
            loop {
                peer.head().await?;
                gate.acquire().await.unwrap().forget();
                peer.send(OK).await?;
            }
        }
    })
    .await;
    (server, gate)
}

fn of(options: PoolOptions) -> Client {
    Client::builder().pool(options).limit(Limit::stage(Stage::Queue, ms(100))).build().unwrap()
}

/// A call that has a connection of this server to itself, until the test permits the answer.
async fn hold(client: &Client, server: &Server) -> JoinHandle<String> {
    let (client, url) = (client.clone(), server.url("/"));
    let holder = tokio::spawn(async move { finish(client.get(&root(), &url).await.unwrap()).await.0 });
    while server.accepted() == 0 {
        tokio::task::yield_now().await;
    }
    holder
}

#[tokio::test]
async fn a_full_pool_is_the_limit_of_queue() {
    let (server, gate) = gated().await;
    let client = of(PoolOptions { connections_per_host: 1, ..PoolOptions::default() });
    let holder = hold(&client, &server).await;
    let error = client.get(&root(), &server.url("/")).await.unwrap_err();
    assert_eq!((error.stage(), error.cause()), (Stage::Queue, Cause::PoolExhausted));
    assert!(error.is_retryable(), "nothing was sent");
    assert!(error.to_string().ends_with("1 of 1 for this host in use, 1 waiting"), "{error}");
    assert!(error.to_string().contains("limit queue 100ms"), "{error}");
    gate.add_permits(1);
    assert_eq!(holder.await.unwrap(), "ok");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn those_who_wait_are_served_in_their_order_and_a_gone_one_is_passed_over() {
    let (server, gate) = gated().await;
    let client = of(PoolOptions { connections_per_host: 1, ..PoolOptions::default() });
    let (order, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let mut calls = Vec::new();
    let quitter = Context::root();
    for n in 0..4 {
        let (client, url, order) = (client.clone(), server.url("/"), order.clone());
        let context = if n == 2 { quitter.clone() } else { root() };
        calls.push(tokio::spawn(async move {
            if let Ok(response) = client.get(&context, &url).await {
                finish(response).await;
                order.send(n).unwrap();
            }
        }));
        // The runtime is single-threaded: the call now stands where it will wait.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        if n == 0 {
            while server.accepted() == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
    quitter.cancel("no longer wanted");
    gate.add_permits(3);
    for call in calls {
        call.await.unwrap();
    }
    drop(order);
    let mut seen = Vec::new();
    while let Some(n) = ended.recv().await {
        seen.push(n);
    }
    assert_eq!(seen, [0, 1, 3]);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn the_limit_for_all_hosts_closes_the_longest_idle_connection() {
    let (first, gate) = gated().await;
    let (second, other_gate) = gated().await;
    gate.add_permits(10);
    other_gate.add_permits(10);
    let client = of(PoolOptions { connections: 1, ..PoolOptions::default() });
    for server in [&first, &second, &first] {
        finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    }
    assert_eq!((first.accepted(), second.accepted()), (2, 1));
}

#[tokio::test]
async fn a_connection_that_becomes_idle_makes_room_for_whoever_waits_at_another_host() {
    let (first, gate) = gated().await;
    let second = Server::answering(OK).await;
    let client = Client::builder().pool(PoolOptions { connections: 1, ..PoolOptions::default() });
    let client = client.limit(Limit::stage(Stage::Queue, ms(2_000))).build().unwrap();
    let holder = hold(&client, &first).await;
    let (context, url) = (root(), second.url("/"));
    let mut waiter = Box::pin(client.get(&context, &url));
    assert!(poll_once(&mut waiter).await.is_pending());
    gate.add_permits(1);
    holder.await.unwrap();
    assert_eq!(finish(waiter.await.unwrap()).await.0, "ok");
}

#[tokio::test]
async fn a_busy_host_does_not_starve_another() {
    let busy = Server::answering(OK).await;
    let other = Server::answering(OK).await;
    let client = Client::builder().pool(PoolOptions { connections: 1, ..PoolOptions::default() });
    let client = client.limit(Limit::stage(Stage::Queue, ms(2_000))).build().unwrap();
    // Somebody always waits for the busy one.
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        let (client, url) = (client.clone(), busy.url("/"));
        calls.spawn(async move {
            loop {
                finish(client.get(&root(), &url).await.unwrap()).await;
            }
        });
    }
    while busy.accepted() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(finish(client.get(&root(), &other.url("/")).await.unwrap()).await.0, "ok");
    assert!(calls.try_join_next().is_none(), "a call to the busy host failed");
}

#[tokio::test]
async fn a_connection_offered_to_one_who_has_just_gone_is_kept() {
    let (server, gate) = gated().await;
    let client = of(PoolOptions { connections_per_host: 1, ..PoolOptions::default() });
    let holder = hold(&client, &server).await;
    let (context, url) = (root(), server.url("/"));
    let mut waiter = Box::pin(client.get(&context, &url));
    assert!(poll_once(&mut waiter).await.is_pending());
    gate.add_permits(2);
    holder.await.unwrap();
    // By now the connection is the waiter's, which has not looked.
    drop(waiter);
    finish(client.get(&root(), &url).await.unwrap()).await;
    assert_eq!(server.accepted(), 1);
}

#[test]
fn no_waker_runs_under_the_lock_of_the_pool() {
    struct Look(Client);

    impl Wake for Look {
        fn wake(self: Arc<Self>) {
            assert_eq!(self.0.connections(), 1);
        }
    }

    let (ended, has_ended) = std::sync::mpsc::channel();
    // On a thread of its own: a deadlock would be the end of the test too.
    std::thread::spawn(move || {
        runtime().block_on(async {
            let (server, gate) = gated().await;
            let client = of(PoolOptions { connections_per_host: 1, ..PoolOptions::default() });
            let holder = hold(&client, &server).await;
            let (context, url) = (root(), server.url("/"));
            let mut waiter = Box::pin(client.get(&context, &url));
            let waker = Waker::from(Arc::new(Look(client.clone())));
            assert!(waiter.as_mut().poll(&mut TaskContext::from_waker(&waker)).is_pending());
            gate.add_permits(1);
            ended.send(holder.await.unwrap()).unwrap();
        });
    });
    assert_eq!(has_ended.recv_timeout(ms(5_000)).as_deref(), Ok("ok"));
}

#[test]
fn idle_connections_are_closed_by_whatever_runtime_is_left() {
    let options = PoolOptions { idle_timeout: ms(50), ..PoolOptions::default() };
    let client = of(options);
    let call = async || {
        let server = Server::answering(OK).await;
        finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
        server
    };
    // What closed idle connections ends with this one.
    drop(runtime().block_on(call()));
    runtime().block_on(async {
        let _server = call().await;
        assert!(comes_true(|| client.connections() == 0).await, "{} are open", client.connections());
    });
}

#[tokio::test]
async fn a_failed_dial_gives_its_place_to_the_next() {
    let client = of(PoolOptions { connections_per_host: 1, ..PoolOptions::default() });
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}/");
    let (context, other) = (root(), root());
    let (one, two) = tokio::join!(client.get(&context, &url), client.get(&other, &url));
    assert_eq!(one.unwrap_err().cause(), Cause::ConnectRefused);
    assert_eq!(two.unwrap_err().cause(), Cause::ConnectRefused);
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_its_time_has_come() {
    let (gone, mut is_gone) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut peer, _| {
        let gone = gone.clone();
        async move {
            peer.head().await?;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
            peer.closed().await?;
            gone.send(()).unwrap();
            Ok(())
        }
    })
    .await;
    let client = of(PoolOptions { idle_timeout: ms(50), ..PoolOptions::default() });
    finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    // Without a further call: the pool closes it by itself.
    is_gone.recv().await.unwrap();
}

#[tokio::test]
async fn a_pool_that_allows_nothing_is_refused() {
    let options = PoolOptions { connections_per_host: 0, ..PoolOptions::default() };
    assert!(Client::builder().pool(options).build().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_peer_closed_does_not_linger() {
    // The pool finds it within some seconds, long before its idle time has come. Time is paused: it jumps as soon as
    // nothing else can happen.
    let server = Server::start(|mut peer, _| async move {
        peer.head().await?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
    })
    .await;
    let client = Client::builder().limits(overdue::Limits::none()).build().unwrap();
    finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    assert_eq!(client.connections(), 1);
    let kept_since = tokio::time::Instant::now();
    while client.connections() > 0 {
        tokio::time::sleep(ms(1_000)).await;
    }
    assert!(kept_since.elapsed() < ms(20_000), "the idle time of 55 s ended it, not the look at it");
}
