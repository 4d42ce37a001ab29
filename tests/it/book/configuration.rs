//! Configurations of the book, made whole so that the program can judge them.
//!
//! Guarantees: what a block does not show of a configuration is the least that makes it one; every
//! file that it names exists, and is what its name says.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, SerialNumber,
    date_time_ymd,
};

use crate::support::wakegate;

const ROUTE: &str = "\n[[route]]\nhost = \"*\"\ninstance = \"app\"\n";
const JWKS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// Where the files of the book's configurations are.
const FOLDERS: [&str; 3] = ["/etc/", "/run/", "/var/"];

/// A whole configuration.
pub fn completed(text: &str) -> String {
    let has = |part: &str| text.lines().any(|line| line.trim_start().starts_with(part));
    let serves = has("[[route]]") || has("[upstream]") && has("instance =") || has("watch = true");
    match serves {
        true => text.to_owned(),
        false => format!("{text}{ROUTE}"),
    }
}

/// The same with every file that it names below `folder`.
pub fn with_files(text: &str, folder: &Path) -> String {
    let mut whole = text.to_owned();
    for named in text.split('"').skip(1).step_by(2) {
        if FOLDERS.iter().any(|place| named.starts_with(place)) {
            let path = folder.join(named.trim_start_matches('/'));
            make(&path);
            whole = whole.replace(&format!("\"{named}\""), &format!("\"{}\"", path.display()));
        }
    }
    whole
}

fn make(path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let extension = path.extension().and_then(|extension| extension.to_str());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    match (name, extension) {
        ("certs", _) => {
            std::fs::create_dir_all(path).unwrap();
            write_pair(&path.join("example.com.pem"), &path.join("example.com.key"));
        }
        ("ca" | "tickets" | "acme" | "certificates" | "holds", _) => {
            std::fs::create_dir_all(path).unwrap();
        }
        ("jwks.json", _) => std::fs::write(path, JWKS).unwrap(),
        (_, Some("pem")) => write_pair(path, &path.with_extension("key")),
        // With its certificate.
        (_, Some("key")) => write_pair(&path.with_extension("pem"), path),
        (_, Some("crl")) => write_list(path),
        (_, Some("ocsp")) => std::fs::write(path, [0x30, 0x03, 0x0a, 0x01, 0x01]).unwrap(),
        (_, Some("html" | "txt")) => std::fs::write(path, "asleep\n").unwrap(),
        ("collector-fields", _) => write_secret(path, "authorization: Bearer 0123456789abcdef\n"),
        ("fleet-key" | "fleet-keys", _) => {
            write_secret(path, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n");
        }
        ("directory", _) => {}
        (_, None) => write_secret(path, "0123456789abcdef0123456789abcdef\n"),
        _ => panic!("what is {}?", path.display()),
    }
}

fn write_pair(cert: &Path, key: &Path) {
    if cert.exists() && key.exists() {
        return;
    }
    // Those of a fleet's members say who they are.
    let uri = match cert.file_stem().and_then(|stem| stem.to_str()) {
        Some("node") => Some("wakegate://eu-1/node/h-0042"),
        Some("front") => Some("wakegate://eu-1/front/f-1"),
        Some("member") => Some("wakegate://eu-1/both/h-0042"),
        _ => None,
    };
    let mut params = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
    let uri = uri.map(|uri| rcgen::SanType::URI(uri.try_into().unwrap()));
    params.subject_alt_names.extend(uri);
    let own = KeyPair::generate().unwrap();
    std::fs::write(cert, params.self_signed(&own).unwrap().pem()).unwrap();
    write_secret(key, &own.serialize_pem());
}

/// A list of revoked certificates without any.
fn write_list(path: &Path) {
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(CertificateParams::default(), key);
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2025, 1, 1),
        next_update: date_time_ymd(2099, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap();
    std::fs::write(path, list.pem().unwrap()).unwrap();
}

fn write_secret(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// What `wakegate check` says of a block that it refuses.
pub fn refusal(text: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let text = with_files(&completed(text), folder.path());
    let file = folder.path().join("wakegate.toml");
    std::fs::write(&file, text).unwrap();
    let mut check = wakegate();
    let check = check.args(["check", "-c"]).arg(&file);
    let output = check.env("HOME", folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then_some(said)
}

#[test]
fn a_configuration_that_is_wrong_is_refused_and_a_part_of_one_is_not() {
    assert_eq!(refusal("[server]\nworkers = 2\n"), None);
    let files = "[[listener]]\ntls = { dir = \"/etc/wakegate/certs\" }\n";
    assert_eq!(refusal(files), None);
    let wrong = refusal("[server]\nwokers = 2\n").unwrap();
    assert!(wrong.contains("workers"), "{wrong}");
}
