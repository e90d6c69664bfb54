//! gRPC as Python's grpcio speaks it, on both sides of the gateway.

use serde_json::Value;

use crate::bed::{Gate, Server, done, is_there, python, script};

/// The cases are in the script: each says what it expects.
#[test]
fn grpcio_calls_grpcio() {
    if !is_there(python().args(["-c", "import grpc"])) {
        return;
    }
    let mut server = Server::start(python().arg(script("calls.py")).arg("serve"));
    let port = server.line();
    let gate = Gate::start(&format!(
        "[cluster.grpc]\nservers = [\"127.0.0.1:{port}\"]\nhttp2 = true\n\
         [cluster.away]\nservers = [\"127.0.0.1:1\"]\nhttp2 = true\n\
         [[route]]\npath = \"/t.S\"\ncluster = \"grpc\"\n\
         [[route]]\npath = \"/short\"\ncluster = \"grpc\"\nlimits = {{ wait = \"300ms\", gap = \"300ms\" }}\n\
         [[route]]\npath = \"/away\"\ncluster = \"away\"\n"
    ));
    let mut client = python();
    client.arg(script("calls.py")).args(["call", &gate.clear, &gate.secure]).arg(gate.certificate());
    let output = done(&mut client);
    assert!(output.stdout.is_empty(), "{output:?}");

    let metrics =
        done(std::process::Command::new("curl").args(["-sS", &format!("http://{}/metrics", gate.admin)])).stdout;
    let metrics = String::from_utf8(metrics).unwrap();
    let log = gate.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Its server's word from the head or the trailers, else the gateway's own.
    for (path, status, code) in [
        ("/t.S/Echo", 200, 0),
        ("/t.S/Fail", 200, 5),
        ("/away/Echo", 502, 14),
        ("/nowhere/Echo", 404, 12),
        ("/short/Wait", 504, 4),
    ] {
        let mut of_path = lines.iter().filter(|line| line["gate"]["path"] == path).peekable();
        assert!(of_path.peek().is_some(), "{path}: {log}");
        for line in of_path {
            let gate = &line["gate"];
            assert_eq!((&gate["status"], &gate["grpc_status"]), (&status.into(), &code.into()), "{line}");
        }
    }
    for code in [0, 4, 5, 12, 14] {
        let lines = lines.iter().filter(|line| line["gate"]["grpc_status"] == code).count();
        let counted = format!("overdue_gate_grpc_calls_total{{grpc_status=\"{code}\"}} {lines}");
        assert!(lines > 0 && metrics.lines().any(|line| line == counted), "no {counted} in\n{metrics}");
    }
    // A stream that was cut has no outcome that anybody was told.
    let stalled: Vec<_> = lines.iter().filter(|line| line["gate"]["path"] == "/short/Stall").collect();
    assert!(!stalled.is_empty());
    for line in stalled {
        assert_eq!((&line["limit"]["name"], &line["gate"]["grpc_status"]), (&"gap".into(), &Value::Null), "{line}");
    }
}
