//! Observers hear of every call, once, in order.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use overdue::{
    Client, Limit, Outcome, Report, Span, Stage,
    client::Builder,
    observe::{Call, Observer},
};

use crate::{finish, ms, root, server::Server};

/// Writes down what it hears.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<Vec<String>>>);

impl Ears {
    fn hear(&self, call: &Call<'_>, what: String) {
        assert_eq!(call.host, "127.0.0.1");
        self.0.lock().unwrap().push(what);
    }

    fn heard(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Ears {
    fn stage_began(&self, call: &Call<'_>, stage: Stage) {
        self.hear(call, format!("+{stage}"));
    }

    fn stage_ended(&self, call: &Call<'_>, span: &Span) {
        self.hear(call, format!("-{} {}", span.stage, span.outcome.as_str()));
    }

    fn attempt_failed(&self, call: &Call<'_>, report: &Report) {
        self.hear(call, format!("again after {}", report.cause.unwrap()));
    }

    fn call_ended(&self, call: &Call<'_>, outcome: Outcome, _: Duration, report: Option<&Report>) {
        let cause = report.and_then(|report| report.cause).map_or("-", |cause| cause.id());
        self.hear(call, format!("= {} {cause}", outcome.as_str()));
    }
}

fn observed(builder: Builder) -> (Client, Ears) {
    let ears = Ears::default();
    (builder.observer(ears.clone()).build().unwrap(), ears)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_good_call_is_told_stage_by_stage() {
    let server = Server::answering(OK).await;
    let (client, ears) = observed(Client::builder());
    finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    let stages = ["queue", "resolve", "connect", "send", "wait", "receive"];
    let mut expected: Vec<_> =
        stages.iter().flat_map(|stage| [format!("+{stage}"), format!("-{stage} done")]).collect();
    expected.push("= ok -".to_owned());
    assert_eq!(ears.heard(), expected);
}

#[tokio::test]
async fn a_failure_is_told_with_its_cause_and_once() {
    let server = Server::start(|peer, _| peer.silent()).await;
    // Long beside what a busy machine is late by: that would be another cause.
    let (client, ears) = observed(Client::builder().limit(Limit::stage(Stage::Wait, ms(500))));
    client.get(&root(), &server.url("/")).await.unwrap_err();
    assert!(ears.heard().ends_with(&["+wait".into(), "-wait timed-out".into(), "= timed-out server-slow".into()]));
}

#[tokio::test]
async fn an_attempt_that_failed_is_not_the_end_of_the_call() {
    let server = Server::start(|mut peer, number| async move {
        peer.head().await?;
        peer.send(OK).await?;
        if number == 1 {
            peer.head().await?;
            return Ok(());
        }
        peer.closed().await
    })
    .await;
    let (client, ears) = observed(Client::builder());
    for _ in 0..2 {
        finish(client.get(&root(), &server.url("/")).await.unwrap()).await;
    }
    let heard = ears.heard();
    let of = |what: &str| heard.iter().filter(|heard| heard.starts_with(what)).count();
    assert_eq!((of("again after closed-early"), of("= ok"), of("= ")), (1, 2, 2), "{heard:?}");
    assert_eq!(of("+"), of("-"), "what begins ends: {heard:?}");
}

#[tokio::test]
async fn a_call_that_its_caller_drops_is_told_too() {
    let server = Server::start(|mut peer, _| async move {
        let head = peer.head().await?;
        if head.starts_with("GET /body") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await?;
        }
        peer.closed().await
    })
    .await;
    let (client, ears) = observed(Client::builder());
    tokio::time::timeout(ms(40), client.get(&root(), &server.url("/wait"))).await.unwrap_err();
    drop(client.get(&root(), &server.url("/body")).await.unwrap());
    let ends: Vec<_> = ears.heard().into_iter().filter(|heard| heard.starts_with('=')).collect();
    assert_eq!(ends, ["= cancelled -", "= cancelled -"]);
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn metrics_are_recorded_with_bounded_hosts() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let guard = metrics::set_default_local_recorder(&recorder);
    let server = Server::answering(OK).await;
    let resolver = ["one.test", "two.test", "three.test"]
        .into_iter()
        .fold(overdue::resolve::Resolver::servers(Vec::new()), |resolver, host| {
            resolver.with_override(host, None, vec![server.addr.ip()])
        });
    let client = Client::builder().resolver(resolver).observer(overdue::observe::Metrics::new(2)).build().unwrap();
    for host in ["one.test", "two.test", "three.test", "one.test"] {
        let url = format!("http://{host}:{}/", server.addr.port());
        finish(client.get(&root(), &url).await.unwrap()).await;
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    client.get(&root(), &format!("http://{free}/")).await.unwrap_err();
    drop(guard);

    let mut calls = Vec::new();
    let mut failures = Vec::new();
    let mut waits = 0;
    for (key, _, _, value) in snapshots.snapshot().into_vec() {
        let key = key.key();
        let label = |name: &str| key.labels().find(|label| label.key() == name).unwrap().value().to_owned();
        match (key.name(), value) {
            ("overdue_calls_total", DebugValue::Counter(count)) => calls.push((label("host"), label("outcome"), count)),
            ("overdue_failures_total", DebugValue::Counter(count)) => {
                failures.push((label("cause"), label("stage"), label("host"), count));
            }
            ("overdue_stage_seconds", DebugValue::Histogram(values)) if label("stage") == "wait" => {
                assert_eq!(label("outcome"), "done");
                waits += values.len();
            }
            _ => {}
        }
    }
    calls.sort();
    let count = |host: &str, outcome: &str, count| (host.to_owned(), outcome.to_owned(), count);
    assert_eq!(
        calls,
        [count("one.test", "ok", 2), count("other", "failed", 1), count("other", "ok", 1), count("two.test", "ok", 1)]
    );
    assert_eq!(failures, [("connect-refused".into(), "connect".into(), "other".into(), 1)]);
    assert_eq!(waits, 4);
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_failure_is_a_warning_with_the_four_facts() {
    use tracing::{
        Event, Level, Metadata, Subscriber,
        field::{Field, Visit},
        span,
    };

    /// Keeps the fields of warnings.
    #[derive(Clone, Default)]
    struct Warnings(Arc<Mutex<Vec<(String, String)>>>);

    impl Visit for Warnings {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            let text = format!("{value:?}").trim_matches('"').to_owned();
            self.0.lock().unwrap().push((field.name().to_owned(), text));
        }
    }

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "overdue" && *metadata.level() == Level::WARN
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    let warnings = Warnings::default();
    let guard = tracing::subscriber::set_default(warnings.clone());
    let server = Server::start(|peer, _| peer.silent()).await;
    let client =
        Client::builder().limit(Limit::stage(Stage::Wait, ms(50))).observer(overdue::observe::Tracing).build().unwrap();
    client.get(&root(), &server.url("/")).await.unwrap_err();
    drop(guard);

    let fields = warnings.0.lock().unwrap().clone();
    let field = |name: &str| &fields.iter().find(|(field, _)| field == name).unwrap().1;
    assert_eq!((field("stage").as_str(), field("cause").as_str()), ("wait", "server-slow"));
    assert_eq!((field("limit").as_str(), field("limit_value").as_str()), ("wait", "50ms"));
    assert!(field("limit_origin").contains("observe.rs:"));
    assert!(!field("fix").is_empty());
}
