//! Flags, environment and files of etcd, and the settings that follow from them.

use super::*;

type Variables = &'static [(&'static str, &'static str)];

fn environment(pairs: Variables) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn argv(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn flags_precede_the_environment_and_both_precede_defaults() {
    let cases: [(&str, Variables, &str, &str, &str); 9] = [
        ("etcd", &[], "default", "default.etcd", "nothing given"),
        ("etcd --name=a", &[], "a", "a.etcd", "the data directory follows the name"),
        ("etcd -name a -data-dir /d", &[], "a", "/d", "one dash, separate values"),
        ("etcd --name a", &[("ETCD_NAME", "b")], "a", "a.etcd", "a flag wins"),
        ("etcd", &[("ETCD_NAME", "b"), ("ETCD_DATA_DIR", "/e")], "b", "/e", "variables count"),
        ("etcd", &[("ETCD_NAME", "")], "default", "default.etcd", "an empty variable is not set"),
        ("etcd --pre-vote --name a", &[], "a", "a.etcd", "a switch takes no value"),
        (
            "etcd --debug-of-tomorrow --name a",
            &[],
            "a",
            "a.etcd",
            "an unknown flag before another flag takes none either",
        ),
        ("etcd --quota-of-tomorrow 5 --name a --name b", &[], "b", "b.etcd", "the last one wins"),
    ];
    for (line, variables, name, data_dir, why) in cases {
        let (argv, environment) = (argv(line), environment(variables));
        let settings = LaunchConfig::new(&argv, &environment).settings();
        assert_eq!((&*settings.name, settings.data_dir.to_str().unwrap()), (name, data_dir), "{line}: {why}");
    }
}

#[test]
fn every_key_is_read_from_flags() {
    let argv = argv(
        "etcd --wal-dir=/w --listen-metrics-urls http://127.0.0.1:2381 \
         --listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379 \
         --advertise-client-urls=https://10.0.0.1:2379 --cert-file=/c --key-file=/k --trusted-ca-file=/a \
         --client-cert-auth --unsafe-no-fsync=true --heartbeat-interval 250 --election-timeout=2500",
    );
    let settings = LaunchConfig::new(&argv, &HashMap::new()).settings();
    let expected = MemberSettings {
        name: "default".into(),
        data_dir: "default.etcd".into(),
        wal_dir: Some("/w".into()),
        listen_metrics_urls: vec!["http://127.0.0.1:2381".into()],
        listen_client_urls: vec!["https://127.0.0.1:2379".into(), "https://10.0.0.1:2379".into()],
        listen_client_http_urls: Vec::new(),
        advertise_client_urls: vec!["https://10.0.0.1:2379".into()],
        peer_pair: None,
        client_tls: Tls {
            cert_file: Some("/c".into()),
            key_file: Some("/k".into()),
            client_cert_file: None,
            client_key_file: None,
            trusted_ca_file: Some("/a".into()),
            client_cert_auth: true,
        },
        unsafe_no_fsync: true,
        heartbeat_interval_ms: 250,
        election_timeout_ms: 2500,
    };
    assert_eq!(settings, expected);
}

#[test]
fn a_configuration_file_is_found_by_flag_or_variable() {
    let cases: [(&str, Variables, Option<&str>, &str); 4] = [
        ("etcd --config-file /f --name a", &[], Some("/f"), "by flag"),
        ("etcd --name a", &[("ETCD_CONFIG_FILE", "/g")], Some("/g"), "by variable"),
        ("etcd --config-file=/f", &[("ETCD_CONFIG_FILE", "/g")], Some("/f"), "the flag wins"),
        ("etcd --config-file=", &[], None, "an empty one counts as unset"),
    ];
    for (line, variables, expected, why) in cases {
        let (argv, environment) = (argv(line), environment(variables));
        let launch = LaunchConfig::new(&argv, &environment);
        assert_eq!(launch.config_file(), expected.map(Path::new), "{line}: {why}");
    }
}

#[test]
fn a_configuration_file_has_the_same_keys() {
    let yaml = "name: 'b'\ndata-dir: /d\nwal-dir: ''\nlisten-client-urls: https://1.2.3.4:2379, http://[::1]:1\n\
         heartbeat-interval: 50\nelection-timeout: 500\nunsafe-no-fsync: true\nquota-backend-bytes: 0\n\
         client-transport-security:\n  cert-file: c.pem\n  key-file: k.pem\n  client-cert-auth: true\n  \
         trusted-ca-file: ca.pem\n  auto-tls: false\npeer-transport-security:\n  cert-file: p.pem\n";
    let settings = MemberSettings::from_config_file(yaml).unwrap();
    assert_eq!(settings.name, "b");
    assert_eq!(settings.wal_path(), Path::new("/d/member/wal"), "an empty wal-dir counts as unset");
    assert_eq!(settings.listen_client_urls, ["https://1.2.3.4:2379", "http://[::1]:1"]);
    assert_eq!((settings.heartbeat_interval_ms, settings.election_timeout_ms), (50, 500));
    assert!(settings.unsafe_no_fsync && settings.client_tls.client_cert_auth);
    assert_eq!(settings.client_tls.trusted_ca_file, Some("ca.pem".into()));
    assert_eq!(settings.client_tls.cert_file, Some("c.pem".into()), "not the peers' certificate");
}

#[test]
fn an_odd_configuration_file_is_an_error_or_all_defaults() {
    for (yaml, why) in [("", "empty"), ("# nothing\n", "only a comment"), ("name: ''\n", "an empty name")] {
        assert_eq!(MemberSettings::from_config_file(yaml).unwrap().name, "default", "{why}");
    }
    for (yaml, why) in [("name: [", "not YAML"), ("heartbeat-interval: soon", "not a number")] {
        let error = MemberSettings::from_config_file(yaml).expect_err(why);
        assert_eq!(error.to_string(), "cannot parse the configuration file");
    }
}

#[test]
fn a_self_signed_certificate_is_in_the_data_directory() {
    let cases = [
        ("etcd --data-dir=/d --auto-tls", Some("/d/fixtures/client/cert.pem"), "by flag"),
        (
            "etcd --name=a --auto-tls=true",
            Some("a.etcd/fixtures/client/cert.pem"),
            "in the default directory",
        ),
        ("etcd --data-dir=/d --auto-tls --cert-file=/c", Some("/c"), "a given certificate takes precedence"),
        ("etcd --data-dir=/d --auto-tls=false", None, "disabled"),
    ];
    for (line, expected, why) in cases {
        let settings = LaunchConfig::new(&argv(line), &HashMap::new()).settings();
        assert_eq!(settings.client_tls.cert_file.as_deref(), expected.map(Path::new), "{line}: {why}");
    }
}

#[test]
fn the_peer_certificate_is_for_clients_only_under_the_same_authority() {
    let peers = "etcd --peer-cert-file=/p --peer-key-file=/q --peer-trusted-ca-file=/a";
    let cases = [
        (format!("{peers} --trusted-ca-file=/a"), true, "the same authority"),
        (format!("{peers} --trusted-ca-file=/b"), false, "clients are verified against another one"),
        (peers.to_owned(), false, "clients are not verified"),
        ("etcd --trusted-ca-file=/a --peer-trusted-ca-file=/a".to_owned(), false, "there is no pair"),
    ];
    for (line, expected, why) in cases {
        let settings = LaunchConfig::new(&argv(&line), &HashMap::new()).settings();
        assert_eq!(settings.peer_pair.is_some(), expected, "{line}: {why}");
    }
    let yaml = "client-transport-security:\n  trusted-ca-file: /a\npeer-transport-security:\n  cert-file: /p\n  \
                key-file: /q\n  trusted-ca-file: /a\n";
    let pair = Pair { certificate: "/p".into(), key: "/q".into() };
    assert_eq!(MemberSettings::from_config_file(yaml).unwrap().peer_pair, Some(pair));
}

#[test]
fn a_name_is_truncated_to_the_length_of_a_label() {
    let argv = argv(&format!("etcd --name={}", "ü".repeat(1000)));
    let settings = LaunchConfig::new(&argv, &HashMap::new()).settings();
    assert_eq!(settings.name.chars().count(), 253);
    assert_eq!(
        settings.data_dir,
        Path::new(&format!("{}.etcd", "ü".repeat(1000))),
        "the directory has the whole name"
    );
}
