//! The chart: what Helm renders for every distribution, whether Kubernetes accepts it, and which values it
//! rejects.

use std::collections::BTreeSet;
use std::time::Duration;

use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::command;
use probe_tests::machine::python;
use probe_tests::machine::raw_http::RawClient;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::observability::chart::{
    PROFILES, SERVER_NAME, case, chart, combinations, container, examined, object, objects, pod, presets,
    read, refusals, stems, strings, unpack, ways_to_tls, workspace,
};
use probe_tests::observability::prometheus;
use probe_tests::probe::{self, Invocation};
use serde_json::{Value, json};

#[test]
fn every_distribution_is_valid_for_the_oldest_and_the_newest_kubernetes() {
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    assert_eq!(
        strings(&schema["properties"]["distribution"]["enum"]),
        presets(),
        "each has a file in presets/"
    );
    let combinations = combinations();
    assert_eq!(combinations.len(), presets().len() * PROFILES.len() * ways_to_tls().len() * 2);
    for name in combinations.keys() {
        let kinds: BTreeSet<_> =
            objects(name).iter().map(|object| object["kind"].as_str().unwrap()).collect();
        let wanted = [
            "Namespace",
            "ServiceAccount",
            "ConfigMap",
            "Service",
            "DaemonSet",
            "PodMonitor",
            "PrometheusRule",
        ];
        assert!(wanted.iter().all(|kind| kinds.contains(kind)), "{name}: {kinds:?}");
        assert_eq!(case(name)["problems"], json!([]), "{name}");
    }
}

#[test]
fn manifests_that_kubernetes_rejects_are_detected() {
    let wrong = case("invalid for Kubernetes")["problems"].to_string();
    assert!(wrong.contains("hostpath"), "{wrong}");
    let newer = case("newer than the oldest")["problems"].to_string();
    assert!(newer.contains("appArmorProfile"), "1.25 has no such field: {newer}");
}

#[test]
fn versions_are_the_ones_that_are_stated() {
    let text = read(&chart().join("Chart.yaml"));
    let versions = examined()["versions"].as_array().unwrap();
    let minor = |version: &Value| {
        version.as_str().and_then(|version| version.strip_suffix(".0")).expect("a first release").to_owned()
    };
    let (oldest, newest) = (minor(&versions[0]), minor(versions.last().unwrap()));
    assert!(text.contains(&format!("kubeVersion: \">={oldest}.0-0\"")), "the oldest is {oldest}: {text}");
    let documentation = read(&workspace().join("docs/kubernetes.md"));
    assert!(documentation.contains(&format!("Kubernetes {oldest} to {newest}")), "{oldest} to {newest}");
    let own = env!("CARGO_PKG_VERSION");
    for line in [format!("\nversion: {own}\n"), format!("\nappVersion: {own}\n")] {
        assert!(text.contains(&line), "{line}");
    }
}

#[test]
fn helm_lint_has_no_complaint() {
    let lints = examined()["lint"].as_object().unwrap();
    assert_eq!(lints.len(), presets().len());
    for (name, found) in lints {
        assert_eq!(found, &json!([]), "{name}");
    }
}

#[test]
fn values_that_cannot_be_are_refused_by_name() {
    for (index, (values, named)) in refusals().into_iter().enumerate() {
        let error = case(&format!("refused {index}"))["error"]
            .as_str()
            .unwrap_or_else(|| panic!("{values} is taken"));
        assert!(error.contains(named), "{values}: {error}");
    }
}

#[test]
fn every_value_is_described() {
    let schema: Value = serde_json::from_str(&read(&chart().join("values.schema.json"))).unwrap();
    let values = read(&chart().join("values.yaml"));
    let readme = read(&chart().join("README.md"));
    // A parent chart sets it; this chart itself never reads it.
    for name in schema["properties"].as_object().unwrap().keys().filter(|name| *name != "enabled") {
        assert!(values.lines().any(|line| line.starts_with(&format!("{name}:"))), "values.yaml lacks {name}");
        assert!(readme.contains(&format!("`{name}")), "README.md of the chart lacks {name}");
    }
    for name in schema["properties"]["settings"]["properties"].as_object().unwrap().keys() {
        assert!(values.contains(name) && readme.contains(name), "settings.{name}");
    }
}

#[test]
fn manifests_are_rendered_from_the_chart() {
    requirements::require(&[Need::Helm]);
    let scratch = Scratch::on_disk("manifests").unwrap();
    let rendered = scratch.path().join("manifests");
    let arguments = [chart().display().to_string(), rendered.display().to_string()];
    python::run(&workspace().join("xtask/helm.py"), &arguments.each_ref().map(String::as_str), &Value::Null)
        .unwrap();
    let kept = workspace().join("deploy/manifests");
    assert_eq!(stems(&kept), presets());
    for preset in presets() {
        let file = format!("{preset}.yaml");
        let same = read(&kept.join(&file)) == read(&rendered.join(&file));
        assert!(same, "deploy/manifests/{file} differs from the chart; `cargo xtask render` writes it");
    }
}

#[test]
fn a_pod_is_where_etcd_is_and_sees_it() {
    for name in combinations().keys() {
        let pod = pod(name);
        for flag in ["hostPID", "hostNetwork"] {
            assert_eq!(pod[flag], true, "{name}: {flag}");
        }
        assert_eq!(pod["priorityClassName"], "system-node-critical", "{name}");
        assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]), "{name}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        assert_eq!(pod["enableServiceLinks"], false, "{name}: variables would look like flags");
        let container = container(name);
        let tracefs = json!({"name": "tracefs", "mountPath": "/sys/kernel/tracing", "readOnly": true});
        assert!(container["volumeMounts"].as_array().unwrap().contains(&tracefs), "{name}");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
        for (probe, path) in
            [("startupProbe", "/-/healthy"), ("livenessProbe", "/-/healthy"), ("readinessProbe", "/-/ready")]
        {
            assert_eq!(container[probe]["httpGet"]["path"], path, "{name}");
            let scheme = if name.contains(", none,") { "HTTP" } else { "HTTPS" };
            assert_eq!(container[probe]["httpGet"]["scheme"], scheme, "{name}");
        }
        assert!(
            container["resources"]["limits"].get("cpu").is_none(),
            "{name}: a throttled probe measures itself"
        );
    }
}

#[test]
fn nodes_are_chosen_by_any_of_the_labels_of_the_distribution() {
    let (control_plane, master, etcd) = (
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/master",
        "node-role.kubernetes.io/etcd",
    );
    let expected = [
        ("generic", vec![control_plane, master, etcd]),
        ("k0s", vec![control_plane]),
        ("k3s", vec![etcd]),
        ("kops", vec![control_plane, master]),
        ("kubeadm", vec![control_plane, master]),
        ("openshift", vec![control_plane, master]),
        ("rke2", vec![etcd]),
        ("talos", vec![control_plane]),
    ];
    assert_eq!(expected.len(), presets().len());
    for (preset, labels) in expected {
        let affinity = &pod(&format!("{preset}, privileged, generated, newest"))["affinity"]["nodeAffinity"];
        let terms = &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        // Terms are ORed, expressions within a term are ANDed.
        let wanted: Vec<_> = labels
            .iter()
            .map(|label| json!({"matchExpressions": [{"key": label, "operator": "Exists"}]}))
            .collect();
        assert_eq!(terms, &json!(wanted), "{preset}");
    }
}

/// Returns the capabilities of the table in docs/kernels.md, in Kubernetes' notation.
fn documented_capabilities() -> BTreeSet<String> {
    let text = read(&workspace().join("docs/kernels.md"));
    let (_, table) = text.split_once("## Which capability for what").expect("the section is there");
    let (table, _) = table.split_once("\n## ").unwrap_or((table, ""));
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `CAP_")?.split_once("` |"));
    rows.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn capabilities_are_exactly_those_of_the_table() {
    let documented = documented_capabilities();
    assert!(documented.contains("BPF") && documented.len() == 6, "{documented:?}");
    for name in combinations().keys() {
        let context = &container(name)["securityContext"];
        // Kubernetes makes capabilities effective for root only.
        assert_eq!(context["runAsUser"], 0, "{name}");
        if name.contains(", privileged,") {
            assert_eq!(context["privileged"], true, "{name}");
            assert!(context.get("capabilities").is_none(), "{name}");
            continue;
        }
        assert_eq!(context["privileged"], false, "{name}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{name}");
        assert_eq!(strings(&context["capabilities"]["add"]), documented, "{name}");
        assert_eq!(context["seccompProfile"]["type"], "Unconfined", "{name}");
        let annotations = &object(name, "DaemonSet")["spec"]["template"]["metadata"]["annotations"];
        let annotation = &annotations["container.apparmor.security.beta.kubernetes.io/etcd-disk-probe"];
        let field = &context["appArmorProfile"]["type"];
        let profile = if name.ends_with("oldest") { (annotation, field) } else { (field, annotation) };
        assert!(
            profile.0.as_str().is_some_and(|profile| profile.eq_ignore_ascii_case("unconfined")),
            "{name}"
        );
        assert!(profile.1.is_null(), "{name}: this version supports the other");
    }
    let fewer = strings(&container("without sysAdmin")["securityContext"]["capabilities"]["add"]);
    let missing: Vec<_> = documented.difference(&fewer).collect();
    assert_eq!(missing, ["SYS_ADMIN"]);
}

#[test]
fn the_only_role_is_the_one_openshift_requires() {
    for name in combinations().keys() {
        let roles: Vec<_> =
            objects(name).iter().filter(|object| object["kind"].as_str().unwrap().contains("Role")).collect();
        if !name.starts_with("openshift") {
            assert!(roles.is_empty(), "{name}: {roles:?}");
            continue;
        }
        let kinds: Vec<_> = roles.iter().map(|role| role["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Role", "RoleBinding"], "{name}");
        let rule = json!([{"apiGroups": ["security.openshift.io"], "resources": ["securitycontextconstraints"],
            "resourceNames": ["etcd-disk-probe"], "verbs": ["use"]}]);
        assert_eq!(roles[0]["rules"], rule, "{name}");
        let constraints = object(name, "SecurityContextConstraints");
        let privileged = name.contains(", privileged,");
        assert_eq!(constraints["allowPrivilegedContainer"], privileged, "{name}");
        if !privileged {
            let added = &container(name)["securityContext"]["capabilities"]["add"];
            assert_eq!(&constraints["allowedCapabilities"], added, "{name}");
        }
    }
}

#[test]
fn prometheus_gets_the_authority_to_trust() {
    for (mode, secret) in [
        ("generated", "etcd-disk-probe-tls"),
        ("existingSecret", "ours"),
        ("certManager", "etcd-disk-probe-tls"),
    ] {
        let name = format!("kubeadm, privileged, {mode}, newest");
        let endpoint = &object(&name, "PodMonitor")["spec"]["podMetricsEndpoints"][0];
        assert_eq!(endpoint["scheme"], "https", "{name}");
        let tls = json!({"serverName": SERVER_NAME, "ca": {"secret": {"name": secret, "key": "ca.crt"}}});
        assert_eq!(endpoint["tlsConfig"], tls, "{name}");
        let volumes = pod(&name)["volumes"].as_array().unwrap();
        assert!(volumes.contains(&json!({"name": "tls", "secret": {"secretName": secret}})), "{name}");
    }
    let plain = "kubeadm, privileged, none, newest";
    assert_eq!(object(plain, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["scheme"], "http");
    let certificate = object("kubeadm, privileged, certManager, newest", "Certificate");
    assert_eq!(certificate["spec"]["dnsNames"], json!([SERVER_NAME]));
}

#[test]
fn an_upgrade_keeps_the_certificate_until_it_is_nearly_over() {
    let data = |name: &str| object(name, "Secret")["data"].clone();
    let old = json!({"ca.crt": "b2xk", "tls.crt": "b2xk", "tls.key": "b2xk"});
    assert_eq!(data("upgraded"), old);
    let kept = &object("upgraded", "Secret")["metadata"]["annotations"]["etcd-disk-probe/renew-after"];
    assert_eq!(kept, "99999999999", "or it would be kept for ever");
    for name in ["installed", "nearly over", "another name"] {
        let data = data(name);
        assert!(
            data["tls.crt"].as_str().unwrap().len() > 100 && data["tls.key"] != old["tls.key"],
            "{name}: {data}"
        );
    }
}

#[test]
fn the_kubelet_probes_only_served_endpoints() {
    let probe = |name: &str| container(name)["readinessProbe"].clone();
    for name in ["passwords", "client certificates"] {
        assert_eq!(probe(name)["tcpSocket"]["port"], "metrics", "{name}");
        assert!(probe(name).get("httpGet").is_none(), "{name}");
    }
    let header = &probe("passwords, kubelet too")["httpGet"]["httpHeaders"][0];
    assert_eq!(header["name"], "Authorization");
    let holds_hash = |object: &&Value| object.to_string().contains("$2b$04$");
    let holders: Vec<_> =
        objects("passwords").iter().filter(holds_hash).map(|object| &object["kind"]).collect();
    assert_eq!(holders, ["Secret"], "hashes are in nothing else");
    let loopback = probe("loopback");
    assert_eq!(
        (&loopback["httpGet"]["host"], &loopback["httpGet"]["scheme"]),
        (&json!("::1"), &json!("HTTP"))
    );
    assert_eq!(container("loopback")["args"][1], "--listen=[::1]:9");
}

#[test]
fn values_reach_the_daemon() {
    let arguments = strings(&container("settings")["args"]);
    for argument in ["--wal-fsync-limit=5ms", "--process-name=etcd,other", "--max-members=4", "--kernel-log"]
    {
        assert!(arguments.contains(argument), "{argument} in {arguments:?}");
    }
    let variable = json!({"name": "RUST_BACKTRACE", "value": "1"});
    assert!(container("settings")["env"].as_array().unwrap().contains(&variable));
    let image = format!("mirror.example:5000/etcd-disk-probe/etcd-disk-probe@sha256:{}", "0".repeat(64));
    assert_eq!(container("registry")["image"], image);
    assert_eq!(pod("registry")["imagePullSecrets"], json!([{"name": "a"}]));
    let ours = format!("ghcr.io/etcd-disk-probe/etcd-disk-probe:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(container("default")["image"], ours);
    let address = |name: &str| container(name)["env"][0]["valueFrom"]["fieldRef"]["fieldPath"].clone();
    assert_eq!((address("default"), address("pod network")), (json!("status.hostIP"), json!("status.podIP")));
}

#[test]
fn install_notes_name_the_special_cases() {
    let cases = [
        ("k0s, privileged, generated, newest", "--enable-worker", "whose controllers are no nodes"),
        ("talos, capabilities, certManager, oldest", "lockdown=integrity", "whose kernel may be closed"),
        (
            "openshift, privileged, generated, newest",
            "openshift.io/node-selector=",
            "whose namespaces select nodes",
        ),
        ("kubeadm, privileged, none, newest", "without TLS", "every client may read it"),
        (
            "kubeadm, privileged, generated, newest",
            "NetworkPolicy binds nobody",
            "it is on the node's network",
        ),
        ("default", "Nobody scrapes it yet", "nothing is enabled"),
        ("loopback", "loopback", "unreachable for pods"),
    ];
    for (name, part, why) in cases {
        let notes = case(name)["notes"].as_str().unwrap_or_else(|| panic!("{name}: {}", case(name)["error"]));
        assert!(notes.contains(part), "{name}: {why}: {notes}");
    }
    assert!(!case("pod network")["notes"].as_str().unwrap().contains("binds nobody"));
}

#[test]
fn rules_equal_the_files_except_for_values() {
    let alerts = |name: &str| {
        let groups = object(name, "PrometheusRule")["spec"]["groups"].as_array().unwrap();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        rules.filter(|rule| rule["alert"].is_string()).cloned().collect::<Vec<_>>()
    };
    let in_file = read(&chart().join("files/alerts.yaml")).matches("- alert: ").count();
    let all = alerts("generic, privileged, generated, newest");
    assert!(in_file > 0 && all.len() == in_file, "{} of {in_file}", all.len());
    let fewer = alerts("rules");
    assert_eq!(fewer.len(), in_file - 1);
    assert!(fewer.iter().all(|alert| alert["alert"] != "EtcdDiskDeviceSlow"));
    for alert in fewer {
        let address = alert["annotations"]["runbook_url"].as_str().expect("each has a runbook");
        assert!(address.starts_with("https://runbooks.example/Etcd"), "{address}");
    }
    let map = objects("generic, privileged, generated, newest");
    let dashboard = map.iter().find(|object| object["metadata"]["labels"]["grafana_dashboard"] == "1");
    let text =
        dashboard.expect("Grafana finds it by its label")["data"]["etcd-disk-probe.json"].as_str().unwrap();
    let own: Value = serde_json::from_str(&read(&chart().join("files/dashboard.json"))).unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), own);
}

#[test]
fn the_daemon_serves_with_what_the_chart_makes() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Helm, Need::Prometheus]);
    let name = "passwords, kubelet too";
    let scratch = Scratch::on_disk("chart").unwrap();
    let (arguments, address) = unpack(name, scratch.path());
    let promtool = prometheus::find("promtool").unwrap().display().to_string();
    let file = scratch.path().join("web/web.yaml").display().to_string();
    command::run(&promtool, &["check", "web-config", &file]).unwrap();

    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    assert_eq!(words[0], "run");
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path()).arguments(&words[1..]);
    let mut running = call.start("run").unwrap();
    let client = RawClient::tls(address, &scratch.path().join("tls/ca.crt"), None).unwrap();
    let named = client.clone().named(SERVER_NAME).unwrap();
    let probe = &container(name)["readinessProbe"]["httpGet"];
    let header = format!("authorization: {}\r\n", probe["httpHeaders"][0]["value"].as_str().unwrap());
    let path = probe["path"].as_str().unwrap();
    let ready = Cancel::default().wait_for(Duration::from_mins(1), || {
        let answer = named.request("GET", path, &header);
        Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
    });
    assert!(ready.unwrap().is_some(), "{}", running.tail());
    assert_eq!(named.request("GET", path, "").unwrap().status, 401, "the kubelet has a separate password");
    assert!(client.request("GET", path, &header).is_err(), "the certificate is for one name");
    running.stop().unwrap();
}

#[test]
fn the_commands_above_a_manifest_make_a_certificate_that_serves() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Helm, Need::Tool("openssl", "openssl")]);
    let scratch = Scratch::on_disk("openssl").unwrap();
    let (arguments, address) = unpack("kubeadm, privileged, existingSecret, newest", scratch.path());
    let manifest = read(&workspace().join("deploy/manifests/kubeadm.yaml"));
    let lines = manifest.lines().skip_while(|line| !line.starts_with("#   openssl")).take(2);
    let commands: Vec<_> = lines.map(|line| line.trim_start_matches('#')).collect();
    let script = format!("cd {}/tls && {}", scratch.path().display(), commands.join("\n"));
    command::run("sh", &["-c", &script]).unwrap();

    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path()).arguments(&words[1..]);
    let mut running = call.start("run").unwrap();
    let authority = scratch.path().join("tls/tls.crt").display().to_string();
    let address = address.to_string();
    let verify = |name: &str| {
        let arguments = ["s_client", "-connect", &address, "-CAfile", &authority, "-verify_return_error"];
        command::run("openssl", &[&arguments[..], &["-verify_hostname", name]].concat())
    };
    let served =
        Cancel::default().wait_for(Duration::from_mins(1), || Ok(verify(SERVER_NAME).is_ok().then_some(())));
    assert!(served.unwrap().is_some(), "{:#}; {}", verify(SERVER_NAME).unwrap_err(), running.tail());
    assert!(verify("elsewhere").is_err(), "the certificate is for one name");
    running.stop().unwrap();
}
