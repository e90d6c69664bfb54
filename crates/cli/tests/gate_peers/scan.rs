//! What sslyze finds in the TLS that clients are offered.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::bed::{Gate, done, is_there, python};

#[test]
fn sslyze_finds_nothing_weak() {
    if !is_there(python().args(["-c", "import sslyze"])) {
        return;
    }
    let gate = Gate::start("[cluster.away]\nservers = [\"127.0.0.1:1\"]\n[[route]]\ncluster = \"away\"\n");
    let folder = TempDir::new().unwrap();
    let report = folder.path().join("report.json");
    let scans = [
        "--sslv2",
        "--sslv3",
        "--tlsv1",
        "--tlsv1_1",
        "--tlsv1_2",
        "--tlsv1_3",
        "--compression",
        "--early_data",
        "--fallback",
        "--heartbleed",
        "--openssl_ccs",
        "--reneg",
        "--robot",
        "--elliptic_curves",
        "--ems",
    ];
    let mut scan = python();
    scan.args(["-m", "sslyze", "--mozilla_config=disable", "--sni=gate.test"]).args(scans);
    done(scan.arg("--json_out").arg(&report).arg(&gate.secure));
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let found = &report["server_scan_results"][0]["scan_result"];
    let of = |name: &str| {
        assert_eq!(found[name]["status"], "COMPLETED", "{name}: {}", found[name]);
        &found[name]["result"]
    };
    for old in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"] {
        let result = of(&format!("{old}_cipher_suites"));
        assert!(
            result["is_tls_version_supported"] == false && result["rejected_cipher_suites"][0].is_object(),
            "{result}"
        );
    }
    for (version, before) in [("tls_1_2", "TLS_ECDHE_"), ("tls_1_3", "TLS_")] {
        let accepted = of(&format!("{version}_cipher_suites"))["accepted_cipher_suites"].as_array().unwrap();
        assert_eq!(accepted.len(), 3, "{accepted:?}");
        for suite in accepted {
            let name = suite["cipher_suite"]["name"].as_str().unwrap();
            let sealed = name.contains("_GCM_") || name.contains("_CHACHA20_POLY1305_");
            assert!(name.starts_with(before) && sealed, "{name}");
        }
    }
    for (name, key, expected) in [
        ("tls_compression", "supports_compression", Value::from(false)),
        // What comes early can be sent again by anybody.
        ("tls_1_3_early_data", "supports_early_data", false.into()),
        ("tls_fallback_scsv", "supports_fallback_scsv", true.into()),
        ("heartbleed", "is_vulnerable_to_heartbleed", false.into()),
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", false.into()),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", false.into()),
        ("session_renegotiation", "supports_secure_renegotiation", true.into()),
        ("robot", "robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED".into()),
        ("tls_extended_master_secret", "supports_ems_extension", true.into()),
    ] {
        assert_eq!(of(name)[key], expected, "{name}: {}", of(name));
    }
}

/// As openssl does it: sslyze looks for resumption in a way of its own.
#[test]
fn openssl_resumes_sessions_and_chooses_a_protocol() {
    if !is_there(Command::new("openssl").arg("version")) {
        return;
    }
    let gate = Gate::start("[cluster.away]\nservers = [\"127.0.0.1:1\"]\n[[route]]\ncluster = \"away\"\n");
    let folder = TempDir::new().unwrap();
    let session = folder.path().join("session");
    let ask = |args: &[&str]| {
        let mut openssl = Command::new("timeout");
        openssl.args(["20", "openssl", "s_client", "-ign_eof", "-servername", "gate.test", "-connect", &gate.secure]);
        openssl.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = openssl.spawn().unwrap();
        // The answer comes behind the tickets, and the end behind it.
        let request = b"GET / HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\n\r\n";
        child.stdin.take().unwrap().write_all(request).unwrap();
        String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let file = session.to_str().unwrap();
        let first = ask(&[version, "-sess_out", file]);
        assert!(first.contains("New, TLSv1."), "{first}");
        let next = ask(&[version, "-sess_in", file]);
        assert!(next.contains("Reused, TLSv1."), "{next}");
    }
    for (offered, chosen) in [("h2,http/1.1", "h2"), ("http/1.1,h2", "h2"), ("http/1.1", "http/1.1")] {
        let said = ask(&["-alpn", offered]);
        assert!(said.contains(&format!("ALPN protocol: {chosen}\n")), "{offered}: {said}");
    }
    assert!(ask(&["-alpn", "spdy/3"]).contains("Cipher is (NONE)"));
}
