//! The page itself: files that are in the program, and what a browser may do with them.

use std::net::IpAddr;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;

/// Scripts and styles of this address alone, none in the page, and no text that becomes a part of it. The icon is an
/// empty one, so that no browser looks for it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// One of the files of the page.
pub(crate) fn file(path: &str) -> Option<Response<Full<Bytes>>> {
    let (kind, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page.html")),
        "/live.css" => ("text/css; charset=utf-8", include_str!("page.css")),
        "/live.mjs" => ("text/javascript; charset=utf-8", include_str!("page.mjs")),
        "/live-numbers.mjs" => ("text/javascript; charset=utf-8", include_str!("numbers.mjs")),
        _ => return None,
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    guard(response.headers_mut());
    Some(response)
}

/// What holds for all that browsers get from here.
pub(crate) fn guard(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
}

/// Whether a browser that asks for this host means us. A page of somebody else's can make its own name lead to this
/// address, and read what it gets; it cannot make its name one of ours, or an address.
pub(crate) fn is_known_here(host: &[u8], names: &[String]) -> bool {
    let Ok(host) = str::from_utf8(host) else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => return address.parse::<IpAddr>().is_ok(),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost") || names.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_browser_may_mean() {
        let names = ["gate.test".to_owned()];
        for host in
            ["127.0.0.1:9901", "127.0.0.1", "[::1]:9901", "10.0.0.7:1", "localhost:9901", "LOCALHOST.", "Gate.test:1"]
        {
            assert!(is_known_here(host.as_bytes(), &names), "{host}");
        }
        for host in [
            "",
            "evil.test",
            "evil.test:9901",
            "127.0.0.1.evil.test",
            "localhost.evil.test",
            "xlocalhost",
            "[evil",
            "[evil.test]:1",
            "\u{fc}",
        ] {
            assert!(!is_known_here(host.as_bytes(), &names), "{host}");
        }
        assert!(!is_known_here(b"\xff", &names));
    }

    /// They go into a browser as they are.
    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let (page, script) = (include_str!("page.html"), include_str!("page.mjs"));
        for text in [page, script, include_str!("page.css"), include_str!("numbers.mjs")] {
            let own = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!own.contains("://"), "nothing is loaded from elsewhere");
        }
        assert!(
            !page.contains("style=") && !page.contains("<style") && !page.contains("<script>"),
            "forbidden by its policy"
        );
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "setAttribute('style"] {
            assert!(!script.contains(sink), "{sink}");
        }
    }
}
