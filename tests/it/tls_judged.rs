//! What others' scanners say of TLS to clients, beside nginx with Debian's settings and the same
//! certificate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm,
};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::reserved::Reserved;
use crate::support::skips::{Lacking, skip};
use crate::support::tools::python;
use crate::support::{Gateway, Plane, Wanted, eventually};

/// What Debian's `nginx.conf` says of TLS, which is stricter than nginx by itself.
const DEBIANS_NGINX: &str =
    "ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers on;";
/// A scan is hundreds of handshakes, each of which begins several programs.
const LONGEST_SCAN: Duration = Duration::from_secs(1200);

/// From what a scanner finds nothing wrong with to what it finds worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Fine,
    /// It could not find out.
    Unknown,
    Low,
    Medium,
    High,
    Critical,
}

/// What testssl says, by the name of what it has looked at.
type Verdicts = BTreeMap<String, (Severity, String)>;

impl Severity {
    fn parse(text: &str) -> Self {
        match text {
            "OK" | "INFO" | "DEBUG" => Self::Fine,
            "WARN" => Self::Unknown,
            "LOW" => Self::Low,
            "MEDIUM" => Self::Medium,
            "HIGH" => Self::High,
            "CRITICAL" | "FATAL" => Self::Critical,
            other => panic!("{other}"),
        }
    }
}

/// A certificate for `judged.test` and its key, signed by a CA that nobody knows.
fn certificate(dir: &Path, algorithm: &'static SignatureAlgorithm) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let signed = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut leaf = CertificateParams::new(vec!["judged.test".to_owned()]).unwrap();
    let day = |days: i64| {
        let at = jiff::Timestamp::now().as_second() + days * 86_400;
        UNIX_EPOCH + Duration::from_secs(at.try_into().unwrap())
    };
    (leaf.not_before, leaf.not_after) = (day(-1).into(), day(80).into());
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    std::fs::write(dir.join("cert.pem"), leaf.pem() + &signed.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

/// nginx at this address, ended with its owner; `None` where there is none.
async fn nginx(dir: &Path, at: SocketAddr) -> Option<tokio::process::Child> {
    let shown = dir.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {shown}/{what};"))
        .join(" ");
    let text = format!(
        "daemon off; master_process off; pid {shown}/pid; error_log {shown}/error.log;\n\
         events {{ }}\nhttp {{ access_log off; {temporary} {DEBIANS_NGINX}\n\
         server {{ listen {at} ssl http2; ssl_certificate {shown}/cert.pem;\n\
         ssl_certificate_key {shown}/key.pem; location / {{ return 200 \"hello\\n\"; }} }} }}\n"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    let command = command.arg("-c").arg(file).stderr(Stdio::null());
    let child = command.kill_on_drop(true).spawn().ok()?;
    eventually("nginx listens", async || {
        tokio::net::TcpStream::connect(at).await.is_ok()
    })
    .await;
    Some(child)
}

/// Runs a scanner to its end, whatever it finds; what it printed.
async fn scan(program: &Path, arguments: &[String]) -> Option<String> {
    let mut command = Command::new(program);
    let command = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.kill_on_drop(true).spawn().ok()?;
    let output = timeout(LONGEST_SCAN, child.wait_with_output()).await;
    let output = output.unwrap().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn testssl(dir: &Path, at: SocketAddr) -> Option<Verdicts> {
    let file = dir.join(format!("{}.json", at.port()));
    // It writes behind what an earlier scan has left.
    let _none = std::fs::remove_file(&file);
    let mut arguments = [
        "--ip=127.0.0.1",
        "--nodns=none",
        "--warnings=off",
        "--color=0",
        "--quiet",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--jsonfile={}", file.display()));
    arguments.push(format!("judged.test:{}", at.port()));
    // Debian leaves out the name's end.
    let mut said = None;
    for program in ["testssl", "testssl.sh"] {
        said = said.or(scan(Path::new(program), &arguments).await);
    }
    let said = said?;
    let text = std::fs::read_to_string(file).unwrap_or_else(|_| panic!("{said}"));
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut verdicts = Verdicts::new();
    for finding in findings {
        let field = |name: &str| finding[name].as_str().unwrap().to_owned();
        let found = (Severity::parse(&field("severity")), field("finding"));
        let worst = verdicts.entry(field("id")).or_insert_with(|| found.clone());
        if found.0 > worst.0 {
            *worst = found;
        }
    }
    for looked_at in [
        "cipher_order",
        "heartbleed",
        "ROBOT",
        "BREACH",
        "HSTS",
        "TLS1_3",
    ] {
        assert!(verdicts.contains_key(looked_at), "{looked_at}: {said}");
    }
    Some(verdicts)
}

/// What sslyze finds against Mozilla's recommendation for servers of all kinds of clients; nobody knows
/// the CA, and so that is left out.
async fn sslyze(program: &Path, at: SocketAddr) -> Vec<String> {
    let arguments = [
        "--mozilla_config=intermediate".to_owned(),
        "--sni=judged.test".to_owned(),
        format!("judged.test:{}{{127.0.0.1}}", at.port()),
    ];
    let said = scan(program, &arguments).await.unwrap();
    let (_, compliance) = said.split_once("COMPLIANCE AGAINST").expect(&said);
    assert!(compliance.contains("judged.test"), "{said}");
    let lines = compliance.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("* "))
        .filter(|line| !line.starts_with("certificate_path_validation"))
        .map(str::to_owned)
        .collect()
}

/// Scans both with a certificate of this kind, unless a program is missing.
async fn judged(kind: &str, algorithm: &'static SignatureAlgorithm) {
    let sslyze_at = python(&["sslyze==6.3.1"]).join("sslyze");
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    plane.listening(Wanted::hello("judged")).await;
    certificate(dir.path(), algorithm);
    let path = dir.path().display();
    let listener = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ cert = \"{path}/cert.pem\", key = \"{path}/key.pem\" }}\n"
    );
    let gateway = Gateway::start(&plane, &listener).await;
    let (reserved, ours) = (Reserved::new(), gateway.addresses[1]);
    let Some(_nginx) = nginx(dir.path(), reserved.address).await else {
        skip(Lacking::Tool, "there is no nginx");
        return;
    };
    let (wakegate, nginx) = tokio::join!(
        testssl(dir.path(), ours),
        testssl(dir.path(), reserved.address)
    );
    let (Some(mut wakegate), Some(nginx)) = (wakegate, nginx) else {
        skip(Lacking::Tool, "there is no testssl");
        return;
    };
    // Not every connection of a scanner comes about: what it could not find out it is asked once more.
    let is_open = |verdicts: &Verdicts| {
        let mut all = verdicts.iter();
        all.any(|(id, (how, _))| {
            let of_nginx = nginx.get(id).map_or(Severity::Fine, |(how, _)| *how);
            *how == Severity::Unknown && of_nginx == Severity::Fine
        })
    };
    if is_open(&wakegate) {
        let again = testssl(dir.path(), ours).await.unwrap_or_default();
        for (id, verdict) in again {
            match wakegate.get(&id) {
                Some((before, _)) if *before != Severity::Unknown && *before >= verdict.0 => {}
                _ => drop(wakegate.insert(id, verdict)),
            }
        }
    }
    let nothing = (Severity::Fine, "-".to_owned());
    let mut worse = Vec::new();
    for (id, (severity, found)) in &wakegate {
        let (theirs, of_theirs) = nginx.get(id).unwrap_or(&nothing);
        if severity > theirs {
            worse.push(format!("{kind} {id}: {found} (nginx: {of_theirs})"));
        }
    }
    for (id, (theirs, found)) in &nginx {
        let (severity, of_ours) = wakegate.get(id).unwrap_or(&nothing);
        if theirs > severity {
            println!("{kind} {id}: better than nginx: {of_ours} ({theirs:?}: {found})");
        }
    }
    let remarks = wakegate
        .iter()
        .filter(|(_, (how, _))| *how > Severity::Fine);
    for (id, (how, found)) in remarks {
        println!("{kind} {id}: as nginx: {how:?}: {found}");
    }
    println!("{kind}: {} verdicts of testssl", wakegate.len());
    assert!(worse.is_empty(), "{worse:#?}");
    let wrong = sslyze(&sslyze_at, ours).await;
    assert_eq!(wrong, Vec::<String>::new(), "{kind}: sslyze");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of thousands of handshakes: `make testssl`"]
async fn scanners_find_nothing_that_they_do_not_find_at_nginx_with_rsa() {
    Box::pin(judged("RSA", &PKCS_RSA_SHA256)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of thousands of handshakes: `make testssl`"]
async fn scanners_find_nothing_that_they_do_not_find_at_nginx_with_ecdsa() {
    Box::pin(judged("ECDSA", &PKCS_ECDSA_P256_SHA256)).await;
}
