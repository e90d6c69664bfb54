//! curl over both versions, in the clear and with TLS, before node's servers of both versions.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use crate::bed::{Gate, Server, done, is_there, script};

/// More than all windows and buffers hold.
const LARGE: usize = 10_000_000;

struct Curl<'a> {
    gate: &'a Gate,
    version: &'a str,
    secure: bool,
    host: &'a str,
    body: &'a Path,
}

impl Curl<'_> {
    /// Version and status, heads and trailers, and the body.
    #[track_caller]
    fn run(&self, path: &str, args: &[&str]) -> (String, String, Vec<u8>) {
        let Self { gate, version, secure, host, body } = self;
        let (scheme, address) = if *secure { ("https", &gate.secure) } else { ("http", &gate.clear) };
        let (got, heads) = (body.with_file_name("got"), body.with_file_name("heads"));
        fs::write(&got, "").unwrap();
        let (ip, port) = address.rsplit_once(':').unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "20", version, "--write-out", "%{http_version} %{http_code}"]);
        curl.arg("--cacert").arg(gate.certificate()).arg("--output").arg(&got).arg("--dump-header").arg(&heads);
        // The name is that of the certificate; which server it is for, a field says.
        curl.args(["--resolve", &format!("gate.test:{port}:{ip}"), "-H", &format!("x-behind: {host}")]);
        curl.args(args).arg(format!("{scheme}://gate.test:{port}{path}"));
        let output = done(&mut curl);
        let heads = fs::read_to_string(heads).unwrap().to_lowercase();
        (String::from_utf8(output.stdout).unwrap(), heads, fs::read(&got).unwrap())
    }

    #[track_caller]
    fn is(&self, path: &str, args: &[&str], status: u16, expected: &[u8]) {
        let version = if self.version == "--http1.1" { "1.1" } else { "2" };
        let (said, _, got) = self.run(path, args);
        assert_eq!(said, format!("{version} {status}"), "{path} {args:?}");
        assert!(
            got == expected,
            "{path} {args:?}: {:?} of {} bytes",
            String::from_utf8_lossy(got.get(..200).unwrap_or(&got)),
            got.len()
        );
    }
}

#[test]
fn curl_asks_node() {
    if !is_there(Command::new("node").arg("--version")) || !is_there(Command::new("curl").arg("--version")) {
        return;
    }
    let mut one = Server::start(Command::new("node").arg(script("behind.js")));
    let mut two = Server::start(Command::new("node").arg(script("behind.js")).arg("h2"));
    let gate = Gate::start(&format!(
        "[cluster.one]\nservers = [\"127.0.0.1:{}\"]\n[cluster.two]\nservers = [\"127.0.0.1:{}\"]\nhttp2 = true\n\
         [[route]]\npath = \"/small\"\nbody_max = 1000\ncluster = \"one\"\n\
         [[route]]\nname = \"two\"\nheader = {{ name = \"x-behind\", value = \"two\" }}\ncluster = \"two\"\n\
         [[route]]\nname = \"one\"\ncluster = \"one\"\n",
        one.line(),
        two.line()
    ));
    let folder = TempDir::new().unwrap();
    let body = folder.path().join("body");
    let large: Vec<u8> = (0..=250).cycle().take(LARGE).collect();
    fs::write(&body, &large).unwrap();
    let from = format!("@{}", body.display());
    for (version, secure) in
        [("--http1.1", false), ("--http2-prior-knowledge", false), ("--http1.1", true), ("--http2", true)]
    {
        for host in ["one", "two"] {
            println!("{version} {secure} {host}");
            let curl = Curl { gate: &gate, version, secure, host, body: &body };
            curl.is("/echo", &["--data-binary", &from], 200, &large);
            curl.is(
                "/echo",
                &["--upload-file", body.to_str().unwrap(), "-H", "Transfer-Encoding: chunked"],
                200,
                &large,
            );
            curl.is(&format!("/length?size={LARGE}"), &[], 200, &vec![b'x'; LARGE]);
            let count = LARGE.to_string();
            curl.is("/count", &["--data-binary", &from, "-H", "Expect: 100-continue"], 200, count.as_bytes());
            // Over HTTP/2, curl 7.88 ends its upload short of its length once it has the head of a refusal, which breaks the
            // protocol: it is told the whole of it at once.
            curl.is("/early", &["--data-binary", &from, "-H", "Expect: 100-continue"], 413, b"too much");
            // The gateway's own no, in the middle of an upload.
            for _ in 0..3 {
                let (said, ..) = curl.run("/small", &["--data-binary", &from, "-H", "Expect:"]);
                assert!(said.ends_with(" 413"), "{said}");
            }
            curl.is("/empty", &[], 204, b"");
            curl.is("/same", &["-H", "If-None-Match: \"a\""], 304, b"");
            for (path, args, expected) in [
                ("/length?size=777", &["--head"][..], "content-length: 777"),
                ("/hints", &[], "link: </style.css>; rel=preload; as=style"),
                ("/trailers", &[], "x-sum: 4"),
            ] {
                let (said, heads, _) = curl.run(path, args);
                assert!(said.ends_with(" 200") && heads.contains(expected), "{path}: {said}: {heads}");
            }
        }
    }
    let log = gate.log();
    let failed: Vec<&str> = log.lines().filter(|line| line.contains("\"cause\":\"")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
