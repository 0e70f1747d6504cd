use std::path::Path;

use super::*;

const HASH: &str = "$2y$04$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze";

fn parse(yaml: &str) -> Result<WebConfig, InvalidWebConfig> {
    WebConfig::parse(yaml, Path::new("/etc/probe"))
}

/// Returns a TLS configuration with additional lines.
fn tls(lines: &str) -> String {
    let lines: Vec<String> = lines.lines().map(|line| format!("  {line}")).collect();
    format!("tls_server_config:\n  cert_file: tls.crt\n  key_file: tls.key\n{}\n", lines.join("\n"))
}

#[test]
fn an_empty_file_has_no_settings() {
    for yaml in
        ["", "\n", "# nothing\n", "tls_server_config:\n", "tls_server_config: {}\nbasic_auth_users: {}\n"]
    {
        let config = parse(yaml).unwrap_or_else(|invalid| panic!("{yaml:?}: {invalid}"));
        assert!(config.tls.is_none() && config.users.is_empty() && config.headers.is_empty(), "{yaml:?}");
        assert!(config.http2 && config.rate_limit.is_none(), "{yaml:?}");
    }
}

#[test]
fn every_setting_is_parsed() {
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
    assert_eq!(tls.client_auth, ClientAuthType::RequireAndVerifyClientCert);
    assert_eq!(tls.client_allowed_sans, ["prometheus"]);
    assert_eq!(tls.versions, [&rustls::version::TLS12]);
    let suites: Vec<_> = tls.cipher_suites.iter().map(|suite| suite.suite().as_str().unwrap()).collect();
    assert_eq!(suites, ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], "suites of a disabled version are omitted");
    assert_eq!(tls.curves.len(), 1);
    assert!(!tls.prefer_server_cipher_suites && !config.http2);
    assert_eq!(config.headers.len(), 2);
    assert_eq!(config.users.keys().collect::<Vec<_>>(), ["17", "alice"], "a name may look like a number");
    assert_eq!(config.rate_limit, Some(RateLimit { interval: Duration::from_secs(1), burst: 20 }));
}

#[test]
fn supported_files_are_accepted() {
    let cases = [
        (tls(""), "certificate and key"),
        ("tls_server_config:\n  cert: |\n    PEM\n  key: |\n    PEM\n".to_owned(), "both inline"),
        (tls("client_auth_type: RequestClientCert"), "requesting a certificate needs no authority"),
        (tls("client_auth_type: RequireClientCert"), "the older name"),
        (tls("client_auth_type: VerifyClientCertIfGiven\nclient_ca: PEM"), "verified if given"),
        (tls("cipher_suites: [TLS_AES_128_GCM_SHA256]"), "TLS 1.3 remains"),
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
fn invalid_files_are_rejected_with_one_sentence() {
    let cases = [
        ("tls_server_config: [".to_owned(), "not YAML", "truncated"),
        ("just a text".to_owned(), "must be a mapping", "a text"),
        ("a: 1\n---\nb: 2\n".to_owned(), "more than one document", "two documents"),
        (
            format!("basic_auth_users:\n  alice: {HASH}\n  alice: {HASH}\n"),
            "line 3: duplicate key",
            "ambiguous",
        ),
        ("tls_config: {}".to_owned(), "unknown key `tls_config`", "a misspelt section"),
        (
            tls("").replace("cert_file", "certificate_file"),
            "unknown key `tls_server_config.certificate_file`",
            "a misspelt required key",
        ),
        (tls("ca_file: x"), "unknown key `tls_server_config.ca_file`", "a misspelt key"),
        ("http_server_config: {http3: true}".to_owned(), "`http_server_config.http3`", "an unknown value"),
        ("http_server_config: {http2: maybe}".to_owned(), "true or false", "not a boolean"),
        (
            "http_server_config: {headers: {Server: x}}".to_owned(),
            "unknown key `http_server_config.headers.Server`",
            "a header that may not be set",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: sometimes}}".to_owned(),
            "deny or sameorigin",
            "an unknown value",
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
        (tls("cert: PEM"), "exclude each other", "inline and in a file"),
        (tls("client_auth_type: Sometimes"), "RequestClientCert", "the choices are listed"),
        (tls("client_auth_type: RequireAndVerifyClientCert"), "client_ca_file` is missing", "no authority"),
        (tls("client_ca_file: x"), "client_auth_type", "an unused authority"),
        (
            tls("client_auth_type: RequireAnyClientCert\nclient_allowed_sans: [a]"),
            "client_allowed_sans",
            "unverified names",
        ),
        (tls("min_version: TLS10"), "older versions are not supported", "not supported by rustls"),
        (tls("max_version: TLS11"), "older versions are not supported", "not supported by rustls"),
        (tls("min_version: SSL3"), "TLS12 or TLS13", "an unknown value"),
        (tls("min_version: TLS13\nmax_version: TLS12"), "above", "minimum above maximum"),
        (tls("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"), "not supported", "a suite that rustls lacks"),
        (tls("cipher_suites: TLS_AES_128_GCM_SHA256"), "a list", "a text in place of a list"),
        (
            tls("max_version: TLS12\ncipher_suites: [TLS_AES_128_GCM_SHA256]"),
            "none for the versions",
            "no suite remains",
        ),
        (tls("curve_preferences: [CurveP521]"), "not supported", "a curve that ring lacks"),
        (
            "basic_auth_users: {alice: secret}".to_owned(),
            "`basic_auth_users.alice` is not a bcrypt",
            "a plain password",
        ),
        ("basic_auth_users: {alice: [x]}".to_owned(), "must be a string", "a list of hashes"),
        ("basic_auth_users: alice".to_owned(), "must be a mapping", "a name alone"),
        (
            format!("basic_auth_users: {{alice: {}}}", HASH.replace("$04$", "$17$")),
            "cost is above 16",
            "eight seconds for each request",
        ),
        (format!("basic_auth_users: {{\"a:b\": {HASH}}}"), "colon", "a name that no client can send"),
        ("rate_limit: {interval: often, burst: 1}".to_owned(), "not a duration", "not a duration"),
        ("rate_limit: {interval: 1s, burst: 0}".to_owned(), "at least 1", "no request would be answered"),
        ("rate_limit: {interval: 1s, burst: -1}".to_owned(), "not a whole number", "negative"),
    ];
    for (yaml, part, why) in cases {
        let invalid = parse(&yaml).expect_err(why).to_string();
        assert!(invalid.contains(part), "{why}: {invalid}");
        assert!(
            !invalid.contains('\n') && !invalid.contains("$2y$") && !invalid.contains("secret"),
            "{why}: {invalid}"
        );
    }
}
