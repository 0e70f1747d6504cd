use std::path::Path;

use super::*;

const HASH: &str = "$2y$04$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze";

fn parse(yaml: &str) -> Result<WebConfig, Wrong> {
    WebConfig::parse(yaml, Path::new("/etc/probe"))
}

/// A configuration of TLS with these lines more.
fn tls(lines: &str) -> String {
    let lines: Vec<String> = lines.lines().map(|line| format!("  {line}")).collect();
    format!("tls_server_config:\n  cert_file: tls.crt\n  key_file: tls.key\n{}\n", lines.join("\n"))
}

#[test]
fn a_file_with_nothing_in_it_asks_for_nothing() {
    for yaml in
        ["", "\n", "# nothing\n", "tls_server_config:\n", "tls_server_config: {}\nbasic_auth_users: {}\n"]
    {
        let config = parse(yaml).unwrap_or_else(|wrong| panic!("{yaml:?}: {wrong}"));
        assert!(config.tls.is_none() && config.users.is_empty() && config.headers.is_empty(), "{yaml:?}");
        assert!(config.http2 && config.rate_limit.is_none(), "{yaml:?}");
    }
}

#[test]
fn everything_that_can_be_said_is_read() {
    let yaml = format!(
        "{}http_server_config:\n  http2: no\n  headers:\n    X-Frame-Options: deny\n    Strict-Transport-Security: \
         max-age=1\nbasic_auth_users:\n  alice: {HASH}\n  17: \"{HASH}\"\nrate_limit:\n  interval: 1s\n  burst: 20\n",
        tls(
            "client_ca_file: /ca.pem\nclient_auth_type: RequireAndVerifyClientCert\nclient_allowed_sans: [prometheus]\n\
             min_version: TLS12\nmax_version: TLS12\nprefer_server_cipher_suites: false\ncipher_suites:\n  \
             - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n  - TLS_AES_128_GCM_SHA256\ncurve_preferences: [CurveP256]"
        )
    );
    let config = parse(&yaml).unwrap();
    let tls = config.tls.unwrap();
    assert_eq!(tls.certificate, Pem::File("/etc/probe/tls.crt".into()), "relative to the file");
    assert_eq!(tls.client_ca, Some(Pem::File("/ca.pem".into())), "absolute");
    assert_eq!(tls.client_auth, ClientAuth::RequireAndVerifyClientCert);
    assert_eq!(tls.client_allowed_sans, ["prometheus"]);
    assert_eq!(tls.versions, [&rustls::version::TLS12]);
    let suites: Vec<_> = tls.cipher_suites.iter().map(|suite| suite.suite().as_str().unwrap()).collect();
    assert_eq!(suites, ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], "those of a version that is off are none");
    assert_eq!(tls.curves.len(), 1);
    assert!(!tls.prefer_server_cipher_suites && !config.http2);
    assert_eq!(config.headers.len(), 2);
    assert_eq!(config.users.keys().collect::<Vec<_>>(), ["17", "alice"], "a name may look like a number");
    assert_eq!(config.rate_limit, Some(RateLimit { interval: Duration::from_secs(1), burst: 20 }));
}

#[test]
fn files_that_can_be_honoured_are() {
    let cases = [
        (tls(""), "certificate and key"),
        ("tls_server_config:\n  cert: |\n    PEM\n  key: |\n    PEM\n".to_owned(), "both inline"),
        (tls("client_auth_type: RequestClientCert"), "no authority is needed to ask"),
        (tls("client_auth_type: RequireClientCert"), "the older name"),
        (tls("client_auth_type: VerifyClientCertIfGiven\nclient_ca: PEM"), "verified if given"),
        (tls("cipher_suites: [TLS_AES_128_GCM_SHA256]"), "leaves TLS 1.3"),
        (tls("min_version: TLS13"), "the newest only"),
        (tls("curve_preferences: [X25519, CurveP256, CurveP384]"), "all curves"),
        ("rate_limit: {interval: 0, burst: 0}".to_owned(), "no limit"),
        (format!("basic_auth_users: {{alice: {HASH}}}"), "passwords without TLS"),
    ];
    for (yaml, why) in cases {
        assert!(parse(&yaml).is_ok(), "{why}: {:?}", parse(&yaml));
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_with_one_sentence() {
    let cases = [
        ("tls_server_config: [".to_owned(), "no YAML", "torn off"),
        ("just a text".to_owned(), "no keys and values", "a text"),
        ("a: 1\n---\nb: 2\n".to_owned(), "more than one document", "two documents"),
        (
            format!("basic_auth_users:\n  alice: {HASH}\n  alice: {HASH}\n"),
            "line 3: a key is given twice",
            "which one counts?",
        ),
        ("tls_config: {}".to_owned(), "unknown key `tls_config`", "a misspelt section"),
        (
            tls("").replace("cert_file", "certificate_file"),
            "unknown key `tls_server_config.certificate_file`",
            "a misspelt key that is needed",
        ),
        (tls("ca_file: x"), "unknown key `tls_server_config.ca_file`", "a misspelt key"),
        ("http_server_config: {http3: true}".to_owned(), "`http_server_config.http3`", "what nobody knows"),
        ("http_server_config: {http2: maybe}".to_owned(), "true or false", "no truth value"),
        (
            "http_server_config: {headers: {Server: x}}".to_owned(),
            "unknown key `http_server_config.headers.Server`",
            "a header that may not be set",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: sometimes}}".to_owned(),
            "deny or sameorigin",
            "a value that it has not",
        ),
        (
            "http_server_config: {headers: {X-XSS-Protection: \"a\\nb\"}}".to_owned(),
            "character",
            "a header within a header",
        ),
        ("tls_server_config: {cert_file: x}".to_owned(), "`tls_server_config.key_file` is missing", "no key"),
        (
            "tls_server_config: {key_file: x}".to_owned(),
            "`tls_server_config.cert_file` is missing",
            "no certificate",
        ),
        ("tls_server_config: {min_version: TLS12}".to_owned(), "cert_file` is missing", "neither"),
        (tls("cert: PEM"), "one too many", "inline and in a file"),
        (tls("client_auth_type: Sometimes"), "RequestClientCert", "the choices are told"),
        (
            tls("client_auth_type: RequireAndVerifyClientCert"),
            "client_ca_file` is missing",
            "verified by whom?",
        ),
        (tls("client_ca_file: x"), "client_auth_type", "an authority for nothing"),
        (
            tls("client_auth_type: RequireAnyClientCert\nclient_allowed_sans: [a]"),
            "client_allowed_sans",
            "names that nobody vouches for",
        ),
        (tls("min_version: TLS10"), "older ones are not spoken", "what rustls cannot"),
        (tls("max_version: TLS11"), "older ones are not spoken", "what rustls cannot"),
        (tls("min_version: SSL3"), "TLS12 or TLS13", "what nobody knows"),
        (tls("min_version: TLS13\nmax_version: TLS12"), "above", "the wrong way round"),
        (tls("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"), "not spoken", "a suite that rustls has not"),
        (tls("cipher_suites: TLS_AES_128_GCM_SHA256"), "a list", "a text in place of a list"),
        (
            tls("max_version: TLS12\ncipher_suites: [TLS_AES_128_GCM_SHA256]"),
            "none for the versions",
            "nothing is left",
        ),
        (tls("curve_preferences: [CurveP521]"), "not spoken", "a curve that ring has not"),
        (
            "basic_auth_users: {alice: secret}".to_owned(),
            "`basic_auth_users.alice` is no bcrypt",
            "a plain password",
        ),
        ("basic_auth_users: {alice: [x]}".to_owned(), "has to be a text", "a list of hashes"),
        ("basic_auth_users: alice".to_owned(), "keys and values", "a name alone"),
        (
            format!("basic_auth_users: {{alice: {}}}", HASH.replace("$04$", "$17$")),
            "cost is above 16",
            "eight seconds for each request",
        ),
        (format!("basic_auth_users: {{\"a:b\": {HASH}}}"), "colon", "a name that nobody can send"),
        ("rate_limit: {interval: often, burst: 1}".to_owned(), "no duration", "no duration"),
        ("rate_limit: {interval: 1s, burst: 0}".to_owned(), "1 at least", "nobody would be answered"),
        ("rate_limit: {interval: 1s, burst: -1}".to_owned(), "no whole number", "less than nobody"),
    ];
    for (yaml, part, why) in cases {
        let wrong = parse(&yaml).expect_err(why).to_string();
        assert!(wrong.contains(part), "{why}: {wrong}");
        assert!(
            !wrong.contains('\n') && !wrong.contains("$2y$") && !wrong.contains("secret"),
            "{why}: {wrong}"
        );
    }
}
