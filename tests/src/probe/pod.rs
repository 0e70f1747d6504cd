//! The pods of the `DaemonSet`, run by podman from the manifest.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::etcd::certs::{Authority, Pair};
use crate::machine::cancel::Cancel;
use crate::machine::command;
use crate::machine::http::Endpoint;
use crate::machine::podman::Podman;
use crate::machine::scratch::Scratch;
use crate::probe::image::Image;

/// The kubelet's probes of the container; they succeed with any status from 200 to 399.
pub const PROBES: [&str; 3] = ["startupProbe", "livenessProbe", "readinessProbe"];

/// The time limit for a probe to succeed.
const ANSWER_LIMIT: Duration = Duration::from_mins(3);

/// The address of the pods: a loopback address that nothing else uses.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 12, 38, 1);

/// The manifest of the pods.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/manifests/kubeadm.yaml");

/// The files for podman.
const POD: &str = "pod.json";
const CONFIG: &str = "config.json";

/// The objects of a manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    objects: Vec<Value>,
}

/// A pod that runs. Removed on drop, with its secrets and volumes.
#[derive(Debug)]
pub struct Pod {
    podman: Podman,
    directory: PathBuf,
    name: String,
    removed: bool,
}

impl Manifest {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let objects =
            serde_saphyr::from_multiple(&text).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { objects })
    }

    fn object(&self, kind: &str) -> anyhow::Result<&Value> {
        let mut found = self.objects.iter().filter(|object| object["kind"] == kind);
        found.next().with_context(|| format!("cannot find a {kind} in the manifest"))
    }

    /// Returns the only container of the pods.
    pub fn container(&self) -> anyhow::Result<&Value> {
        let containers = &self.object("DaemonSet")?["spec"]["template"]["spec"]["containers"];
        ensure!(
            containers.as_array().is_some_and(|all| all.len() == 1),
            "cannot find the only container: {containers}"
        );
        Ok(&containers[0])
    }

    /// Returns the template as a pod that podman 4.3.1 accepts, on a node with this address.
    ///
    /// Nothing is added. What is removed or replaced is the kubelet's part, or unsupported by that podman.
    pub fn pod(&self, image: &str, node: IpAddr) -> anyhow::Result<Value> {
        let set = self.object("DaemonSet")?;
        let mut template = set["spec"]["template"].clone();
        let spec = &mut template["spec"];
        let address = node.to_string();
        for container in spec["containers"].as_array_mut().context("containers are a list")? {
            // The image under test replaces the published one.
            container["image"] = image.into();
            // The kubelet expands node fields and then the arguments that refer to them. That podman supports
            // neither `status.hostIP` nor `$(NAME)`.
            let mut references = Vec::new();
            for variable in container["env"].as_array_mut().into_iter().flatten() {
                if variable["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP" {
                    *variable = json!({"name": variable["name"], "value": address});
                    let name = variable["name"].as_str().context("a variable has a name")?;
                    references.push(format!("$({name})"));
                }
            }
            for argument in container["args"].as_array_mut().into_iter().flatten() {
                let text = argument.as_str().context("an argument is a string")?.to_owned();
                let expanded =
                    references.iter().fold(text, |text, reference| text.replace(reference, &address));
                *argument = expanded.into();
            }
            let container = container.as_object_mut().context("a container is an object")?;
            // podman maps ports and fails if the network is the host's and no mapping is possible.
            container.remove("ports");
            // podman would run `curl` in the container from systemd timers. The test sends the kubelet's
            // requests itself.
            for probe in PROBES {
                container.remove(probe);
            }
        }
        for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
            if let Some(secret) = volume["secret"].as_object_mut() {
                // The default value; without it that podman dereferences a null pointer.
                secret.entry("optional").or_insert(false.into());
            }
        }
        // `hostPID` stays but has no effect: see `Podman::create_for_host_pid`.
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            // For a DaemonSet the controller generates the pod names.
            "metadata": { "name": set["metadata"]["name"], "labels": template["metadata"]["labels"] },
            "spec": template["spec"],
        }))
    }

    /// Runs a pod of the template; its files are in `directory`, and its TLS secret is this pair.
    pub fn run(&self, podman: &Podman, directory: &Path, pod: &Value, tls: &Pair) -> anyhow::Result<Pod> {
        let read =
            |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?.to_owned();
        write(&directory.join(CONFIG), self.object("ConfigMap")?)?;
        let running = Pod { podman: podman.clone(), directory: directory.to_owned(), name, removed: false };
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            if let Some(secret) = volume["secret"]["secretName"].as_str() {
                // Kubernetes stores these in base64, which that podman does not decode.
                let data = json!({"tls.crt": read(&tls.certificate)?, "tls.key": read(&tls.key)?});
                let object =
                    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "data": data});
                let file = directory.join("secret.json");
                write(&file, &object)?;
                podman.run(&["secret", "create", secret, &file.display().to_string()])?;
            }
        }
        running.play(pod, false)?;
        Ok(running)
    }
}

impl Pod {
    /// Returns the name of its container.
    pub fn container(&self) -> String {
        format!("{0}-{0}", self.name)
    }

    /// Returns the end of its log.
    pub fn log(&self) -> String {
        // podman writes the container's standard error to its own standard error.
        let words =
            [&self.podman.words()[..], &["logs", "--tail=20", &self.container()].map(str::to_owned)].concat();
        let log = ["-c", "exec \"$@\" 2>&1", "logs"].map(str::to_owned).into_iter().chain(words);
        command::run("sh", &log.collect::<Vec<_>>()).unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Replaces it by another version: this pod is removed first, as in a `DaemonSet` with `maxUnavailable`.
    pub fn replace(&self, pod: &Value) -> anyhow::Result<()> {
        self.play(pod, true)
    }

    /// Removes it and all objects that were created for it.
    pub fn remove(mut self) -> anyhow::Result<()> {
        self.removed = true;
        self.take_down()
    }

    fn play(&self, pod: &Value, replace: bool) -> anyhow::Result<()> {
        let [file, config] = [POD, CONFIG].map(|name| self.directory.join(name).display().to_string());
        write(Path::new(&file), pod)?;
        let replace = if replace { &["--replace"][..] } else { &[] };
        self.podman
            .run(&[&["play", "kube", "--quiet", "--configmap", &config], replace, &[&file]].concat())
            .map(drop)
    }

    fn take_down(&self) -> anyhow::Result<()> {
        self.podman.run(&["play", "kube", "--down", &self.directory.join(POD).display().to_string()])?;
        self.podman.run(&["secret", "rm", "--all"])?;
        self.podman.run(&["volume", "rm", "--all", "--force"]).map(drop)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        if let Err(error) = self.take_down() {
            eprintln!("cannot remove pod {}: {error:#}", self.name);
        }
    }
}

/// The node of a pod: everything that a pod requires.
#[derive(Debug)]
pub struct Node {
    // Fields are dropped in this order.
    podman: Podman,
    scratch: Scratch,
    manifest: Manifest,
    tls: Pair,
    endpoint: Endpoint,
}

impl Node {
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::on_disk(name)?;
        let manifest = Manifest::read(Path::new(MANIFEST))?;
        let authority = Authority::create(scratch.path(), "ca")?;
        let tls = authority.named("probe", &[&ADDRESS.to_string()])?;
        let port =
            manifest.container()?["ports"][0]["containerPort"].as_u64().context("cannot find the port")?;
        let address = SocketAddr::new(IpAddr::V4(ADDRESS), port.try_into()?);
        let endpoint = Endpoint::tls(address, authority.certificate(), &tls)?;
        let podman = Podman::create_for_host_pid(&scratch.path().join("p"))?;
        Ok(Self { podman, scratch, manifest, tls, endpoint })
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub fn podman(&self) -> &Podman {
        &self.podman
    }

    /// Returns the endpoint of its pod.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns a pod of this image.
    pub fn pod(&self, image: &str) -> anyhow::Result<Value> {
        self.manifest.pod(image, ADDRESS.into())
    }

    /// Runs a pod of this image.
    pub fn run(&self, image: &Image) -> anyhow::Result<Pod> {
        image.load(&self.podman)?;
        self.manifest.run(&self.podman, self.scratch.path(), &self.pod(&image.name)?, &self.tls)
    }

    /// Sends the kubelet's request until it succeeds, and returns how long that took.
    pub fn wait_until(&self, probe: &str, pod: &Pod) -> anyhow::Result<Duration> {
        let (started, get) = (Instant::now(), &self.manifest.container()?[probe]["httpGet"]);
        ensure!(
            get["scheme"] == "HTTPS" && get["port"] == "metrics",
            "cannot send the request of {probe}: {get}"
        );
        let path = get["path"].as_str().context("a probe has a path")?;
        let answered = Cancel::default().wait_for(ANSWER_LIMIT, || {
            Ok(self.endpoint.get(path).is_ok_and(|answer| (200..400).contains(&answer.status)).then_some(()))
        })?;
        answered.with_context(|| format!("{probe} fails after {ANSWER_LIMIT:?}: {}", pod.log()))?;
        Ok(started.elapsed())
    }
}

fn write(path: &Path, value: &Value) -> anyhow::Result<()> {
    fs::write(path, value.to_string()).with_context(|| format!("cannot write {}", path.display()))
}
