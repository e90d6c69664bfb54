use std::{fs, os::unix::fs::symlink};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;

/// A certificate and its key, in PEM.
fn made(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn write(folder: &Path, (chain, key): &(String, String)) -> CertificateFiles {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("tls.crt"), chain).unwrap();
    fs::write(folder.join("tls.key"), key).unwrap();
    CertificateFiles::new(folder.join("tls.crt"), folder.join("tls.key"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn loaded(files: impl IntoIterator<Item = CertificateFiles>) -> Certificates {
    let (certificates, warnings) = Certificates::load(files, &provider()).unwrap();
    assert_eq!(warnings, []);
    certificates
}

fn refused(files: CertificateFiles) -> String {
    let error = Certificates::load([files], &provider()).unwrap_err();
    format!("{}: {}", error.file().file_name().unwrap().to_str().unwrap(), error.why())
}

/// Whose certificate a client gets, by its first name.
fn name_of(certificates: &Certificates, name: Option<&str>) -> String {
    let key = certificates.for_name(name).unwrap();
    let certificate = webpki::EndEntityCert::try_from(&key.cert[0]).unwrap();
    certificate.valid_dns_names().next().unwrap().to_owned()
}

#[test]
fn a_client_gets_the_certificate_of_its_name_or_the_first() {
    let folder = TempDir::new().unwrap();
    let pair = |name: &str| write(&folder.path().join(name), &made(&[name], |_| {}));
    let files = [
        pair("first.example.com"),
        pair("www.example.com").names(["www.example.com", "*.Example.com"]),
        pair("api.example.com"),
        // The first of two counts.
        pair("second.example.com").names(["api.example.com"]),
    ];
    let certificates = loaded(files);
    for (asked, given) in [
        (None, "first.example.com"),
        (Some("elsewhere.org"), "first.example.com"),
        (Some("WWW.example.com"), "www.example.com"),
        (Some("any.example.com"), "www.example.com"),
        (Some("api.example.com"), "api.example.com"),
        (Some("a.b.example.com"), "first.example.com"),
    ] {
        assert_eq!(name_of(&certificates, asked), given, "{asked:?}");
    }
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let folder = TempDir::new().unwrap();
    let (good, other) = (made(&["a.example.com"], |_| {}), made(&["b.example.com"], |_| {}));
    let with = |chain: &str, key: &str| write(folder.path(), &(chain.to_owned(), key.to_owned()));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(refused(with(&good.0, &other.1)).starts_with("tls.key: keys may not be consistent: KeyMismatch"));
    assert_eq!(refused(with("", &good.1)), "tls.crt: holds no certificate");
    assert_eq!(refused(with(&good.0, "")), "tls.key: holds no private key that is not encrypted");
    assert!(
        refused(with(&(good.0.clone() + broken), &good.1)).starts_with("tls.crt: certificate 2 of it cannot be read")
    );
    assert!(refused(with(&broken.replace("AAAA", "A*AA"), &good.1)).starts_with("tls.crt: is no PEM"));
    assert_eq!(refused(with(&"x".repeat((1 << 20) + 1), &good.1)), "tls.crt: is larger than 1 MiB");
    assert!(refused(with(&good.0, &good.1).names(["a b"])).starts_with("tls.crt: \"a b\" is no host name"));
    let staple = folder.path().join("staple");
    fs::write(&staple, b"\x30\x03\x0a\x01").unwrap();
    assert_eq!(refused(with(&good.0, &good.1).staple(&staple)), "staple: is no OCSP response in DER");
    fs::remove_file(folder.path().join("tls.key")).unwrap();
    let gone = CertificateFiles::new(folder.path().join("tls.crt"), folder.path().join("tls.key"));
    assert!(refused(gone).starts_with("tls.key: cannot be read: No such file"));
    assert_eq!(Certificates::load([], &provider()).unwrap_err().to_string(), "no certificate is configured");
}

#[test]
fn what_is_doubtful_is_a_warning() {
    let folder = TempDir::new().unwrap();
    let warns = |pair: &(String, String)| -> Vec<String> {
        let (_, warnings) = Certificates::load([write(folder.path(), pair)], &provider()).unwrap();
        warnings.into_iter().map(|warning| warning.text).collect()
    };
    let old = made(&["a.example.com"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    assert!(warns(&old)[0].starts_with("certificate 1 of it expired "), "{:?}", warns(&old));
    let early = made(&["a.example.com"], |params| params.not_before = rcgen::date_time_ymd(4000, 1, 1));
    assert!(warns(&early)[0].starts_with("certificate 1 of it is valid only in "), "{:?}", warns(&early));
    let other = made(&["b.example.com"], |params| params.distinguished_name.push(rcgen::DnType::CommonName, "other"));
    let good = made(&["a.example.com"], |_| {});
    let mixed = (good.0.clone() + &other.0, good.1.clone());
    assert_eq!(warns(&mixed), ["certificate 2 of it did not sign the one before: clients may not trust the chain"]);
    assert_eq!(warns(&good), <[String; 0]>::default());
}

#[test]
fn a_staple_is_handed_out_when_it_is_there() {
    let folder = TempDir::new().unwrap();
    let staple = folder.path().join("staple");
    let certificates = loaded([write(folder.path(), &made(&["a.example.com"], |_| {})).staple(&staple)]);
    assert_eq!(certificates.for_name(None).unwrap().ocsp, None);
    fs::write(&staple, b"\x30\x03\x0a\x01\x00").unwrap();
    assert_eq!(certificates.reload().renewed, [folder.path().join("tls.crt")]);
    assert_eq!(certificates.for_name(None).unwrap().ocsp.as_deref(), Some(&b"\x30\x03\x0a\x01\x00"[..]));
}

#[test]
fn the_last_good_one_is_kept_and_the_error_is_told() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (made(&["first.example.com"], |_| {}), made(&["second.example.com"], |_| {}));
    let certificates = loaded([write(folder.path(), &first)]);
    let held = certificates.for_name(None).unwrap();
    assert!(certificates.reload().is_quiet());
    // Half of a renewal.
    fs::write(folder.path().join("tls.crt"), &second.0).unwrap();
    for quietly in [false, true, false] {
        let reload = certificates.look(quietly);
        assert_eq!(
            (reload.renewed.len(), reload.errors.len()),
            (0, usize::from(!quietly)),
            "told again only when asked"
        );
        assert_eq!(name_of(&certificates, None), "first.example.com");
    }
    fs::write(folder.path().join("tls.key"), &second.1).unwrap();
    let reload = certificates.reload();
    assert_eq!((reload.renewed.len(), reload.errors.len()), (1, 0));
    assert_eq!(name_of(&certificates, Some("first.example.com")), "second.example.com");
    // Who has the old one keeps it.
    assert!(!Arc::ptr_eq(&held, &certificates.for_name(None).unwrap()));
}

/// What a watch tells, while something is done to the files.
struct Watching {
    certificates: Certificates,
    told: mpsc::UnboundedReceiver<Reload>,
    task: tokio::task::JoinHandle<()>,
}

impl Watching {
    /// Begins once the watch has looked for the first time.
    async fn start(certificates: Certificates, folder: &Path, then: &(String, String)) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        // What changes before the first look is told by it: so the watch is known to be armed.
        write(folder, then);
        let watched = certificates.clone();
        let task = tokio::spawn(async move { watched.watch(|reload| tell.send(reload).unwrap()).await });
        let mut watching = Self { certificates, told, task };
        assert_eq!(watching.next().await.renewed.len(), 1);
        watching
    }

    async fn next(&mut self) -> Reload {
        tokio::time::timeout(Duration::from_secs(10), self.told.recv()).await.unwrap().unwrap()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn files_that_are_written_or_renamed_into_place_are_noticed() {
    let folder = TempDir::new().unwrap();
    let certificates = loaded([write(folder.path(), &made(&["a.example.com"], |_| {}))]);
    let mut watching = Watching::start(certificates, folder.path(), &made(&["b.example.com"], |_| {})).await;
    write(folder.path(), &made(&["c.example.com"], |_| {}));
    assert_eq!(watching.next().await.renewed.len(), 1);
    assert_eq!(name_of(&watching.certificates, None), "c.example.com");

    let aside = folder.path().join("aside");
    write(&aside, &made(&["d.example.com"], |_| {}));
    for file in ["tls.crt", "tls.key"] {
        fs::rename(aside.join(file), folder.path().join(file)).unwrap();
    }
    assert_eq!(watching.next().await.renewed.len(), 1);
    assert_eq!(name_of(&watching.certificates, None), "d.example.com");

    fs::write(folder.path().join("tls.crt"), "rubbish").unwrap();
    let reload = watching.next().await;
    assert!(reload.to_string().ends_with("holds no certificate; the last good one is kept"), "{reload}");
    assert_eq!(name_of(&watching.certificates, None), "d.example.com");
}

/// As a Kubernetes volume: `tls.crt -> ..data/tls.crt`, `..data -> ..1`; then `..data` is renamed over, and `..1` removed.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_link_that_is_swapped_is_noticed_over_and_over() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("..0"), &made(&["v0.example.com"], |_| {}));
    symlink("..0", at("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(file), at(file)).unwrap();
    }
    let certificates = loaded([CertificateFiles::new(at("tls.crt"), at("tls.key"))]);
    let then = made(&["v1.example.com"], |_| {});
    let mut watching = Watching::start(certificates, &at("..0"), &then).await;
    for number in 2..5 {
        let (old, new) = (fs::read_link(at("..data")).unwrap(), format!("..{number}"));
        write(&at(&new), &made(&[&format!("v{number}.example.com")], |_| {}));
        symlink(&new, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        fs::remove_dir_all(folder.path().join(old)).unwrap();
        let reload = watching.next().await;
        assert_eq!((reload.renewed.len(), reload.errors.len()), (1, 0), "{reload}");
        assert_eq!(name_of(&watching.certificates, None), format!("v{number}.example.com"));
    }
}

/// The link is above the folder of the files; or what a link leads to is written anew, in another folder.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn links_are_followed_up_and_down() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("first"), &made(&["v0.example.com"], |_| {}));
    symlink("first", at("live")).unwrap();
    fs::create_dir(at("served")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("../live").join(file), at("served").join(file)).unwrap();
    }
    let certificates = loaded([CertificateFiles::new(at("served/tls.crt"), at("served/tls.key"))]);
    let mut watching = Watching::start(certificates, &at("first"), &made(&["v1.example.com"], |_| {})).await;
    write(&at("first"), &made(&["v2.example.com"], |_| {}));
    assert_eq!(watching.next().await.renewed.len(), 1);
    assert_eq!(name_of(&watching.certificates, None), "v2.example.com");
    write(&at("second"), &made(&["v3.example.com"], |_| {}));
    symlink("second", at("aside")).unwrap();
    fs::rename(at("aside"), at("live")).unwrap();
    assert_eq!(watching.next().await.renewed.len(), 1);
    assert_eq!(name_of(&watching.certificates, None), "v3.example.com");
}
