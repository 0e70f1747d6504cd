//! The chart, rendered by Helm once for all tests: every distribution, and the special cases of single tests.
//!
//! Everything here panics on an error: it is for tests only.

#![expect(clippy::missing_panics_doc, reason = "that is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::machine::http::free_address;
use crate::machine::python;
use crate::machine::requirements::{self, Need};

pub const PROFILES: [&str; 2] = ["privileged", "capabilities"];

/// Returns the TLS modes with the values that each requires.
pub fn ways_to_tls() -> [(&'static str, Value); 4] {
    [
        ("generated", json!({"mode": "generated"})),
        ("existingSecret", json!({"mode": "existingSecret", "existingSecret": "ours"})),
        ("certManager", json!({"mode": "certManager", "certManager": {"issuerRef": {"name": "ours"}}})),
        ("none", json!({"mode": "none", "acknowledgePlaintext": true})),
    ]
}

pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests are in a workspace")
}

pub fn chart() -> PathBuf {
    workspace().join("deploy/chart/etcd-disk-probe")
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Returns the file names of a directory without their extensions.
pub fn stems(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

pub fn presets() -> BTreeSet<String> {
    stems(&chart().join("presets"))
}

/// Returns every combination, with all optional parts enabled.
pub fn combinations() -> BTreeMap<String, Value> {
    let mut cases = BTreeMap::new();
    for preset in presets() {
        for profile in PROFILES {
            for (mode, tls) in ways_to_tls() {
                for version in ["oldest", "newest"] {
                    let values = json!({
                        "distribution": preset,
                        "securityProfile": profile,
                        "tls": tls,
                        "namespace": {"create": true},
                        "prometheus": {"podMonitor": {"enabled": true, "interval": "15s", "sampleLimit": 5000}},
                        "prometheusRule": {"enabled": true},
                        "dashboards": {"enabled": true},
                        "networkPolicy": {"enabled": true, "from": [{"podSelector": {}}]},
                        "basicAuth": {"prometheusSecret": {"name": "prometheus"}},
                    });
                    let case = json!({"values": values, "version": version});
                    cases.insert(format!("{preset}, {profile}, {mode}, {version}"), case);
                }
            }
        }
    }
    cases
}

/// Returns invalid values, and how the error names them.
pub fn refusals() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"distribution": "kubeadmn"}), "/distribution"),
        (json!({"securityProfile": "restricted"}), "/securityProfile"),
        (json!({"tsl": {}}), "'tsl'"),
        (json!({"image": {"repo": "x"}}), "'repo'"),
        (json!({"image": {"digest": "sha256:1"}}), "/image/digest"),
        (json!({"image": {"pullPolicy": "Sometimes"}}), "/image/pullPolicy"),
        (json!({"settings": {"walFsyncLimit": "10"}}), "/settings/walFsyncLimit"),
        (json!({"settings": {"walFsyncLimits": "10ms"}}), "'walFsyncLimits'"),
        (json!({"settings": {"hook": "kprobe"}}), "/settings/hook"),
        (json!({"settings": {"maxMembers": 0}}), "/settings/maxMembers"),
        (json!({"extraArgs": ["check"]}), "/extraArgs/0"),
        (json!({"listen": {"port": 70000}}), "/listen/port"),
        (json!({"listen": {"address": "[::1]"}}), "/listen/address"),
        (json!({"tls": {"mode": "self-signed"}}), "/tls/mode"),
        (json!({"tls": {"mode": "none"}}), "tls.mode none"),
        (json!({"tls": {"mode": "none"}, "listen": {"address": "0.0.0.0"}}), "tls.mode none"),
        (json!({"tls": {"mode": "existingSecret"}}), "tls.existingSecret"),
        (json!({"tls": {"mode": "certManager"}}), "tls.certManager.issuerRef.name"),
        (json!({"tls": {"certManager": {"duration": "90d"}}}), "/tls/certManager/duration"),
        (json!({"listen": {"address": "127.0.0.1"}, "hostNetwork": false}), "listen.address"),
        (json!({"basicAuth": {"users": {"prometheus": "secret"}}}), "/basicAuth/users/prometheus"),
        (json!({"basicAuth": {"kubeletAuthorization": "cHJvYmU6"}}), "/basicAuth/kubeletAuthorization"),
        (json!({"webConfig": {"tls": {}}}), "'tls'"),
        (json!({"prometheus": {"podMonitor": {"interval": "15"}}}), "/prometheus/podMonitor/interval"),
        (json!({"prometheus": {"podMonitor": {"enabled": "yes"}}}), "/prometheus/podMonitor/enabled"),
        (json!({"resources": {"limits": {"memory": "128 MiB"}}}), "/resources/limits/memory"),
        (
            json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}),
            "/updateStrategy/rollingUpdate/maxSurge",
        ),
        (json!({"livenessProbe": {"httpGet": {"path": "/"}}}), "'httpGet'"),
        (json!({"podLabels": {"a": 1}}), "/podLabels/a"),
        (json!({"fullnameOverride": "Has_Capitals"}), "/fullnameOverride"),
    ]
}

pub const SERVER_NAME: &str = "etcd-disk-probe.etcd-disk-probe.svc";

/// Returns a generated secret as an earlier release left it.
pub fn secret(server_name: &str, renew_after: &str) -> Value {
    json!({"etcd-disk-probe-tls": {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "etcd-disk-probe-tls", "annotations": {
            "etcd-disk-probe/server-name": server_name, "etcd-disk-probe/renew-after": renew_after,
        }},
        "data": {"ca.crt": "b2xk", "tls.crt": "b2xk", "tls.key": "b2xk"},
    }})
}

/// A bcrypt hash of `wonderland`, at the lowest cost.
const HASH: &str = "$2b$04$etcd.disk.probe.testsOgvW9WS6jI/QxyR7R.Rj32838NnU5fu2";

fn users() -> Value {
    json!({"alice": HASH})
}

/// Returns the cases that single tests check.
pub fn specials() -> Vec<(&'static str, Value)> {
    let case = |values: Value| json!({"values": values});
    let upgrade = |secrets: Value| json!({"values": {}, "secrets": secrets});
    vec![
        ("default", case(json!({}))),
        ("invalid for Kubernetes", case(json!({"extraVolumes": [{"name": "x", "hostpath": {"path": "/"}}]}))),
        (
            "newer than the oldest",
            json!({"version": "oldest", "values": {
                "securityProfile": "capabilities", "kubeTargetVersionOverride": "1.30.0",
            }}),
        ),
        ("without sysAdmin", case(json!({"securityProfile": "capabilities", "sysAdmin": false}))),
        ("installed", upgrade(json!({}))),
        ("upgraded", upgrade(secret(SERVER_NAME, "99999999999"))),
        ("nearly over", upgrade(secret(SERVER_NAME, "1"))),
        ("another name", upgrade(secret("elsewhere", "99999999999"))),
        ("passwords", case(json!({"basicAuth": {"users": users()}}))),
        (
            "passwords, kubelet too",
            case(json!({
                "basicAuth": {"users": users(), "kubeletAuthorization": format!("Basic {}", BASE64_STANDARD.encode("alice:wonderland"))},
            })),
        ),
        (
            "client certificates",
            case(json!({
                "webConfig": {"tls_server_config": {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "/ca.crt"}},
            })),
        ),
        ("loopback", case(json!({"tls": {"mode": "none"}, "listen": {"address": "::1", "port": 9}}))),
        ("pod network", case(json!({"hostNetwork": false}))),
        (
            "settings",
            case(json!({
                "settings": {"walFsyncLimit": "5ms", "processName": ["etcd", "other"], "maxMembers": 4},
                "extraArgs": ["--kernel-log"],
                "env": {"RUST_BACKTRACE": 1},
            })),
        ),
        (
            "rules",
            case(json!({"prometheusRule": {
                "enabled": true, "disabledAlerts": ["EtcdDiskDeviceSlow"], "runbookUrlBase": "https://runbooks.example/",
            }})),
        ),
        (
            "registry",
            case(json!({
                "global": {"imageRegistry": "mirror.example:5000", "imagePullSecrets": [{"name": "a"}]},
                "image": {"digest": format!("sha256:{}", "0".repeat(64))},
            })),
        ),
    ]
}

/// Returns the results of all cases, rendered by one process.
pub fn examined() -> &'static Value {
    static EXAMINED: OnceLock<Value> = OnceLock::new();
    EXAMINED.get_or_init(|| {
        requirements::require(&[Need::Helm]);
        let mut cases = combinations();
        cases.extend(specials().into_iter().map(|(name, case)| (name.to_owned(), case)));
        for (index, (values, _)) in refusals().into_iter().enumerate() {
            cases.insert(format!("refused {index}"), json!({"values": values}));
        }
        for preset in presets() {
            let case = json!({"values": {"distribution": preset}, "lint": true});
            cases.insert(format!("lint {preset}"), case);
        }
        let input = json!({"chart": chart(), "cases": cases});
        let output = python::run(&workspace().join("tests/chart.py"), &[], &input).unwrap();
        serde_json::from_str(&output).unwrap()
    })
}

pub fn case(name: &str) -> &'static Value {
    let case = &examined()["cases"][name];
    assert!(case.is_object(), "{name} is no case");
    case
}

pub fn objects(name: &str) -> &'static [Value] {
    let case = case(name);
    case["objects"].as_array().unwrap_or_else(|| panic!("{name}: {}", case["error"]))
}

/// Returns the only object of a kind.
pub fn object(name: &str, kind: &str) -> &'static Value {
    let mut found = objects(name).iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("{name}: no {kind}"));
    assert!(found.next().is_none(), "{name}: more than one {kind}");
    object
}

pub fn pod(name: &str) -> &'static Value {
    &object(name, "DaemonSet")["spec"]["template"]["spec"]
}

pub fn container(name: &str) -> &'static Value {
    let containers = pod(name)["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "{name}: {containers:?}");
    &containers[0]
}

pub fn strings(value: &Value) -> BTreeSet<String> {
    let items = value.as_array().unwrap_or_else(|| panic!("{value} is no list"));
    items.iter().map(|item| item.as_str().expect("a string").to_owned()).collect()
}

/// Writes the files that a case mounts, and returns the arguments with their paths. The address is loopback,
/// since there is no kubelet.
pub fn unpack(name: &str, directory: &Path) -> (Vec<String>, SocketAddr) {
    for folder in ["web", "tls"] {
        fs::create_dir_all(directory.join(folder)).unwrap();
    }
    let mounted = "/etc/etcd-disk-probe";
    let here = directory.to_str().unwrap();
    for object in objects(name) {
        for (file, text) in object["data"].as_object().into_iter().flatten() {
            let text = text.as_str().unwrap();
            let is_secret = object["kind"] == "Secret";
            let folder = directory.join(if is_secret { "tls" } else { "web" });
            let bytes = if is_secret {
                BASE64_STANDARD.decode(text).unwrap()
            } else {
                text.replace(mounted, here).into_bytes()
            };
            fs::write(folder.join(file), bytes).unwrap();
        }
        if let Some(text) = object["stringData"]["web.yaml"].as_str() {
            fs::write(directory.join("web/web.yaml"), text.replace(mounted, here)).unwrap();
        }
    }
    let address = free_address().unwrap();
    let arguments = container(name)["args"].as_array().unwrap().iter().map(|argument| {
        let argument = argument.as_str().unwrap().replace("$(NODE_IP)", "127.0.0.1");
        argument.replace(":12381", &format!(":{}", address.port())).replace(mounted, here)
    });
    (arguments.collect(), address)
}
