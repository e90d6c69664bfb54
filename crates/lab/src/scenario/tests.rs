use overdue_core::{LimitName, Origin, Stage};

use super::*;

const GOOD: &str = r#"
name = "no-head"
about = "The server takes the request and never answers."

[server.script]
steps = [
    { read = "head" },
    "hold",
]

[call]
scheme = "http"
limits = { wait = "500ms" }

[truth]
outcome = "timed-out"
stage = "wait"
cause = ["server-slow"]
limit = "wait"
"#;

/// The error of the good file after one change.
fn error(from: &str, to: &str) -> ScenarioError {
    assert!(GOOD.contains(from), "{from:?} is not in the file");
    let error = Scenario::parse(&GOOD.replacen(from, to, 1), "x.toml").unwrap_err();
    assert!(error.to_string().starts_with(&format!("x.toml:{}: ", error.line)));
    error
}

#[track_caller]
fn assert_error(from: &str, to: &str, line: u32, message: &str) {
    let error = error(from, to);
    assert!(error.message.contains(message), "{error}\n  does not say {message:?}");
    assert_eq!(error.line, line, "{error}");
}

#[test]
fn limits_come_from_their_line() {
    let scenario = Scenario::parse(GOOD, "x.toml").unwrap();
    let limit = scenario.call.limits.get(LimitName::Stage(Stage::Wait)).unwrap();
    assert_eq!(limit.origin, Origin::File { path: "x.toml".into(), line: 13 });
    assert!(scenario.call.limits.total.is_none(), "what is not named is left out");
}

#[test]
fn unknown_keys_and_words_name_their_line() {
    assert_error("about", "abuot", 3, "unknown field `abuot`, expected one of `name`, `about`");
    assert_error("scheme = \"http\"", "scheme = \"gopher\"", 12, "unknown variant `gopher`");
    assert_error("[server.script]", "[server.skript]", 5, "unknown variant `skript`");
    assert_error("\"hold\"", "\"hodl\"", 8, "unknown variant `hodl`");
    assert_error("{ read = \"head\" }", "{ read = \"haed\" }", 7, "unknown variant `haed`");
    assert_error("{ read = \"head\" }", "{ send = { txet = \"x\" } }", 7, "unknown field `txet`");
    assert_error("{ wait = \"500ms\" }", "{ wiat = \"500ms\" }", 13, "\"wiat\" is no limit of a call; there are queue");
    assert_error("\"500ms\"", "\"500\"", 13, "write a number with a unit");
    assert_error("\"timed-out\"", "\"timeout\"", 16, "there are ok, timed-out");
    assert_error("stage = \"wait\"", "stage = \"weight\"", 17, "there are queue, resolve");
    assert_error("server-slow", "server-slaw", 18, "server-slaw");
    assert_error("limit = \"wait\"", "limit = \"patience\"", 19, "is no limit of a call");
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    assert_error("no-head", "No_Head", 2, "kebab-case");
    assert_error("\"hold\"", "{ pause = \"1s\" }", 5, "leaves the connection in the air");
    assert_error("{ read = \"head\" }", "\"close\"", 5, "after `close` are never reached");
    assert_error("{ read = \"head\" }", "\"tls\"", 5, "need a table `tls`");
    assert_error("{ read = \"head\" }", "{ filter = \"drop-both\" }", 5, "needs.namespace = true");
    assert_error("scheme", "host = \"lab.test\"\nscheme", 11, "nobody knows the host");
    assert_error("scheme", "warm = true\nscheme", 11, "the step `armed`");
    assert_error("scheme", "caller = \"past-deadline\"\nscheme", 11, "needs the limit `total`");
    assert_error("limit = \"wait\"", "limit = \"total\"", 15, "the limit total cannot fire");
    assert_error("limit = \"wait\"", "", 15, "say which limit fires");
    assert_error("\"timed-out\"", "\"failed\"", 15, "only a timed-out call");
    assert_error("\"timed-out\"", "\"ok\"", 15, "ends well");
    assert_error("[\"server-slow\"]", "[\"server-slow\", \"path-lost\"]", 15, "confidence = \"medium\"");
}

#[test]
fn a_payload_is_text_hex_and_filler() {
    let text = GOOD.replacen(
        "{ read = \"head\" }",
        r#"{ send = "a\r\n" }, { send = { text = "b", hex = "ff", filler_bytes = 3 } }"#,
        1,
    );
    let Server::Script(script) = Scenario::parse(&text, "x.toml").unwrap().server else { panic!("no script") };
    assert_eq!(script.steps[0], Step::Send(Payload { bytes: b"a\r\n".to_vec(), filler_bytes: 0 }));
    assert_eq!(script.steps[1], Step::Send(Payload { bytes: vec![b'b', 0xff], filler_bytes: 3 }));
}

#[test]
fn a_broken_file_is_an_error() {
    let error = Scenario::parse("name = ", "x.toml").unwrap_err();
    assert_eq!(error.line, 1);
    assert!(!error.message.contains('\n'), "{error}");
}
