//! The image: its contents, its SBOM, and that it works in containers and pods like the binary outside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use cyclonedx_bom::models::bom::Bom;
use cyclonedx_bom::prelude::{SpecVersion, Validate};
use probe_tests::etcd;
use probe_tests::etcd::container::Container;
use probe_tests::etcd::load::Load;
use probe_tests::faults::evidence::Stopwatch;
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::command;
use probe_tests::machine::http::Endpoint;
use probe_tests::machine::podman::{self, Podman};
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Scratch, Tracefs};
use probe_tests::observability::chart::workspace;
use probe_tests::probe::assert_exact::put_some;
use probe_tests::probe::crosscheck::{self, Crosscheck, Demand, Watch};
use probe_tests::probe::image::Image;
use probe_tests::probe::loaded_programs::Held;
use probe_tests::probe::metrics::Metrics;
use probe_tests::probe::pod::{Node, PROBES};
use probe_tests::probe::sbom;
use probe_tests::probe::{Finished, Invocation};
use serde_json::{Value, json};

const VERSION: &str = env!("CARGO_PKG_VERSION");

const ETCD: &str = "3.5.16";

const BYTES_MAX: u64 = 15 << 20;

const OFTEN: Duration = Duration::from_millis(200);

/// With all privileges; the probe itself mounts tracefs.
const PRIVILEGED: [&str; 3] = ["--privileged", "--pid=host", "--network=host"];

/// With the privileges of docs/kernels.md and a read-only root file system.
const CAPABILITIES: [&str; 8] = [
    "--cap-drop=all",
    "--cap-add=BPF,PERFMON,SYS_RESOURCE,SYS_PTRACE,DAC_READ_SEARCH,SYS_ADMIN",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--read-only",
    "--volume=/sys/kernel/tracing:/sys/kernel/tracing:ro",
    "--pid=host",
    "--network=host",
];

/// The architectures of the images, each with `e_machine` (elf.h) of its binaries; the first is this
/// machine's.
const MACHINES: [(&str, u16); 2] = [("amd64", 62), ("arm64", 183)];

/// Returns the images of all architectures, built once for all of these tests.
fn images() -> &'static [Image] {
    static IMAGES: OnceLock<Vec<Image>> = OnceLock::new();
    IMAGES.get_or_init(|| build("first"))
}

fn image() -> &'static Image {
    &images()[0]
}

fn build(directory: &str) -> Vec<Image> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image").join(directory);
    Image::build(&directory, VERSION, &MACHINES.map(|(machine, _)| machine)).unwrap()
}

/// Mounts tracefs at its usual mount point if it is not mounted.
fn tracefs() -> Option<Tracefs> {
    (!Path::new(Tracefs::POINT).join("events").exists()).then(|| Tracefs::mount().unwrap())
}

#[test]
fn an_image_is_one_static_binary_and_its_licences_and_always_the_same() {
    requirements::require(&podman::NEEDS);
    let scratch = Scratch::on_disk("image").unwrap();
    let second = build("second");
    for ((image, again), (machine, elf)) in images().iter().zip(&second).zip(MACHINES) {
        assert_eq!(image.digest, again.digest, "{machine}: built twice");
        assert_eq!(
            fs::read(&image.sbom).unwrap(),
            fs::read(&again.sbom).unwrap(),
            "{machine}: its materials too"
        );
        println!("{machine}: {} bytes, {}", image.size, image.digest);
        assert!(image.size < BYTES_MAX, "{machine}: {} bytes", image.size);

        let digest = image.manifest().unwrap()["config"]["digest"].as_str().unwrap().to_owned();
        let about = image.json(&digest).unwrap();
        assert_eq!(about["architecture"], machine);
        let config = &about["config"];
        assert_eq!(config["User"], "0:0", "by number");
        assert_eq!(config["Entrypoint"], json!(["/etcd-disk-probe"]));
        assert_eq!(config["ExposedPorts"], json!({"12381/tcp": {}}));
        let labels = config["Labels"].as_object().unwrap();
        let label = |name: &str| labels[&format!("org.opencontainers.image.{name}")].as_str().unwrap();
        assert_eq!((label("version"), label("licenses")), (VERSION, "MIT OR Apache-2.0"));
        assert_eq!(label("title"), "etcd-disk-probe");
        assert!(label("source").starts_with("https://") && !label("description").is_empty(), "{labels:?}");
        assert_eq!(label("revision").split('-').next().unwrap().len(), 40, "{labels:?}");
        assert_eq!(about["created"].as_str().unwrap(), label("created"), "of the commit");

        let root = scratch.path().join(machine);
        image.unpack(&root).unwrap();
        let files =
            command::run("find", &[&root.display().to_string(), "-type", "f", "-printf", "%P %m\n"]).unwrap();
        let files: BTreeSet<_> = files.lines().collect();
        let licences =
            ["LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY"].map(|name| format!("licenses/{name} 644"));
        let expected = licences.iter().map(String::as_str).chain(["etcd-disk-probe 755"]);
        assert_eq!(files, expected.collect(), "{machine}");
        let binary = fs::read(root.join("etcd-disk-probe")).unwrap();
        assert_eq!(u16::from_le_bytes([binary[18], binary[19]]), elf, "{machine}");
        // No message contains directories of the build machine.
        let home = std::env::var("HOME").unwrap();
        for directory in [workspace(), Path::new(&home)] {
            let directory = format!("{}/", directory.display());
            assert!(!contains(&binary, directory.as_bytes()), "{machine}: {directory}");
        }
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

#[test]
fn every_linked_crate_is_in_the_sbom() {
    let bill = sbom::read(&image().sbom).unwrap();
    let (linked, built_with) = (sbom::parts(&bill, "required"), sbom::parts(&bill, "excluded"));
    println!("{} linked, {} built with", linked.len(), built_with.len());

    // The crates that cargo links into the binary and into the kernel programs.
    let binary = ["probe-user", "--target=x86_64-unknown-linux-gnu"];
    let kernel = ["probe-ebpf", "--target=bpfel-unknown-none", "--features=kernel"];
    let mut cargo = BTreeSet::new();
    for of in [&binary[..], &kernel] {
        let tree = ["tree", "--prefix=none", "--edges=normal,no-proc-macro", "--manifest-path"];
        let manifest = workspace().join("Cargo.toml").display().to_string();
        let text = command::run("cargo", &[&tree[..], &[&manifest, "--package"], of].concat()).unwrap();
        let named = text.lines().filter_map(|line| line.split_once(" v"));
        cargo.extend(named.map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap())));
    }
    let libraries = BTreeSet::from(["core", "glibc", "libgcc", "std"]);
    let is_library = |name: &&String| libraries.contains(name.split(' ').next().unwrap());
    let crates: BTreeSet<_> = linked.iter().filter(|name| !is_library(name)).cloned().collect();
    assert_eq!(crates, cargo);
    assert_eq!(linked.len(), cargo.len() + libraries.len(), "and the libraries of the compiler");

    // The crates that the binary itself reveals: a panic message contains its source path.
    let scratch = Scratch::on_disk("bill").unwrap();
    image().unpack(scratch.path()).unwrap();
    let sources = sbom::sources(&fs::read(scratch.path().join("etcd-disk-probe")).unwrap());
    assert!(sources.len() > 50 && sources.is_subset(&linked), "{:?}", sources.difference(&linked));

    // Dependencies of tests only.
    for name in ["proptest", "rcgen", "cyclonedx-bom", "libtest-mimic"] {
        let of_it = |all: &BTreeSet<String>| all.iter().any(|part| part.starts_with(&format!("{name} ")));
        assert!(!of_it(&linked) && !of_it(&built_with), "{name}");
    }
}

#[test]
fn the_sbom_is_valid_and_complete() {
    let text = fs::read_to_string(&image().sbom).unwrap();
    let problems = |text: &str| match Bom::parse_from_json_v1_5(text.as_bytes()) {
        Ok(bill) => bill
            .validate_version(SpecVersion::V1_5)
            .passed()
            .then_some(())
            .ok_or("it does not pass".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    assert_eq!(problems(&text), Ok(()));
    for (right, wrong) in [
        ("pkg:cargo/aya@", "cargo/aya@"),
        ("\"MIT OR Apache-2.0\"", "\"MIT and the like\""),
        ("\"scope\": \"required\"", "\"scope\": \"linked\""),
        ("\"SHA-256\"", "\"SHA-6\""),
        ("\"timestamp\": \"2", "\"timestamp\": \"on 2"),
    ] {
        assert!(text.contains(right), "{right}");
        assert!(problems(&text.replace(right, wrong)).is_err(), "{wrong} does not pass for valid");
    }
    let bill: Value = serde_json::from_str(&text).unwrap();
    let lock = fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
    let components = bill["components"].as_array().unwrap();
    for part in components {
        let purl = part["purl"].as_str().unwrap();
        assert!(part["licenses"][0]["expression"].is_string(), "{purl}");
        if purl.starts_with("pkg:cargo/") {
            let sum = part["hashes"][0]["content"].as_str().unwrap();
            assert!(sum.len() == 64 && lock.contains(&format!("checksum = \"{sum}\"")), "{purl}: {sum}");
        }
    }
    let references: BTreeSet<_> = components.iter().map(|part| part["bom-ref"].as_str().unwrap()).collect();
    let edges = bill["dependencies"].as_array().unwrap();
    let named =
        edges.iter().flat_map(|edge| edge["dependsOn"].as_array().unwrap()).map(|on| on.as_str().unwrap());
    let named: BTreeSet<_> = named.collect();
    assert_eq!(named, references, "each is a dependency of another");
    let scratch = Scratch::on_disk("bill").unwrap();
    image().unpack(scratch.path()).unwrap();
    let sum = command::run("sha256sum", &[scratch.path().join("etcd-disk-probe")]).unwrap();
    assert!(
        sum.starts_with(bill["metadata"]["component"]["hashes"][0]["content"].as_str().unwrap()),
        "{sum}"
    );
}

fn require_all() {
    requirements::require(&[&[Need::Root, Need::Bpf, Need::Etcd(ETCD)][..], &podman::NEEDS].concat());
}

fn start_etcd(name: &str, scratch: &Scratch) -> Container {
    let name = format!("{name}-{}", std::process::id());
    Container::start(&etcd::find(ETCD).unwrap(), &name, &scratch.path().join("e")).unwrap()
}

/// Checks that the probe agrees with an etcd that it discovered only after its first syncs, and then at every
/// reading under load.
fn reconcile(probe: &Endpoint, etcd: &Container) -> [Crosscheck; 2] {
    let name = etcd.name();
    put_some(&etcd.endpoint());
    crosscheck::settle_at(probe, name).unwrap();
    let watch = Watch::start_at(probe.clone(), &[name], Demand::Exact, OFTEN);
    put_some(&etcd.endpoint());
    let seen = watch.stop().unwrap();
    assert!(seen.readings > 0, "{seen:?}");
    let figures = crosscheck::settle_at(probe, name).unwrap();
    assert!(figures[0].kernel > 100.0, "{name}: the load shows: {figures:?}");
    figures
}

fn verdict(probe: &Endpoint, member: &str) -> String {
    let metrics = Metrics::parse(&probe.get("/metrics").unwrap().text().unwrap()).unwrap();
    let labels = [("member", member)];
    let current: Vec<_> =
        metrics.all("etcd_disk_probe_verdict", &labels).filter(|sample| sample.value > 0.0).collect();
    assert_eq!(current.len(), 1, "{current:?}");
    current[0].labels["verdict"].clone()
}

/// The verdicts that a reconciled etcd under load may have on a disk that may be slow.
fn is_sensible(verdict: &str) -> bool {
    !["blind", "endpoint_mismatch", "too_few_samples", "fsync_disabled"].contains(&verdict)
}

#[test]
fn a_probe_in_a_container_reconciles_an_etcd_in_another() {
    require_all();
    let scratch = Scratch::on_disk("run").unwrap();
    let podman = Podman::create(&scratch.path().join("p")).unwrap();
    image().load(&podman).unwrap();
    let etcd = start_etcd("contained", &scratch);
    for (profile, rights) in [("privileged", &PRIVILEGED[..]), ("capabilities", &CAPABILITIES)] {
        let _tracefs = (profile == "capabilities").then(tracefs);
        let container = format!("probe-{profile}-{}", std::process::id());
        let run = ["run", "--rm", "--name", &container];
        let words = podman.words();
        let words: Vec<_> =
            words.iter().map(String::as_str).chain(run).chain(rights.iter().copied()).collect();
        let call = Invocation::new(Path::new(&image().name), scratch.path()).through(&words);

        let doctor = call.start("doctor").unwrap().wait(Duration::from_mins(2)).unwrap();
        assert!(doctor.stdout.starts_with("FIT"), "{profile}: {doctor:?}");

        let probe = call.arguments(&["--scrape-interval", "200ms"]).run().unwrap();
        println!("{profile}: ready after {:?}", probe.ready_after().unwrap());
        let figures = reconcile(&probe.endpoint(), &etcd);
        assert!(probe.is_ready(), "{profile}: {}", probe.log().unwrap());
        let verdict = verdict(&probe.endpoint(), etcd.name());
        println!(
            "{profile}: {:?} events of each side, {verdict}",
            figures.each_ref().map(|figure| figure.kernel)
        );
        assert!(is_sensible(&verdict), "{profile}: {verdict}");

        let held = held(&podman, &container);
        let sent = Instant::now();
        podman.run(&["stop", "--time=10", &container]).unwrap();
        let Finished { code, stderr, .. } = probe.ended(Duration::from_mins(1)).unwrap();
        println!("{profile}: stopped after {:?}", sent.elapsed());
        assert_eq!(code, Some(0), "{profile}: {stderr}");
        assert_nothing_left(&held);
    }
}

/// Returns the kernel objects of the probe in a container.
fn held(podman: &Podman, container: &str) -> Held {
    let held = Held::by(podman.pid(container).unwrap()).unwrap();
    assert!(
        !held.programs.is_empty() && !held.maps.is_empty() && !held.links.is_empty(),
        "{container}: {held:?}"
    );
    println!(
        "{container}: {} programs, {} maps, {} links",
        held.programs.len(),
        held.maps.len(),
        held.links.len()
    );
    held
}

fn assert_nothing_left(held: &Held) {
    let gone = Cancel::default()
        .wait_for(Duration::from_secs(30), || Ok((held.left()? == Held::default()).then_some(())));
    assert!(gone.unwrap().is_some(), "the kernel still has {:?} of {held:?}", held.left());
}

/// Returns files and mounts that the probe may have left.
fn traces(scratch: &Scratch) -> BTreeSet<PathBuf> {
    let listed =
        ["/sys/fs/bpf", "/dev/shm", "/run", "/tmp"].into_iter().filter_map(|place| fs::read_dir(place).ok());
    let files = listed.flatten().flatten().map(|entry| entry.path());
    let files = files
        .filter(|path| path.starts_with("/sys/fs/bpf") || path.to_string_lossy().contains("etcd-disk-probe"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?)));
    let mounts =
        mounts.filter(|point| point.starts_with(scratch.path().join("p")) || point.starts_with("/sys"));
    files.chain(mounts).collect()
}

#[test]
fn the_pods_of_the_daemon_set_run_as_in_the_manifest() {
    require_all();
    let node = Node::new("pod").unwrap();
    let _tracefs = tracefs();
    let etcd = start_etcd("next-to-a-pod", node.scratch());
    let pod = node.run(image()).unwrap();
    for probe in PROBES {
        println!("{probe} after {:?}", node.wait_until(probe, &pod).unwrap());
    }
    let figures = reconcile(node.endpoint(), &etcd);
    let verdict = verdict(node.endpoint(), etcd.name());
    println!("{:?} events of each side, {verdict}", figures.each_ref().map(|figure| figure.kernel));
    assert!(is_sensible(&verdict), "{verdict}");
    pod.remove().unwrap();
    assert!(!node.endpoint().listens(), "no process answers any more");
}

#[test]
fn a_new_version_takes_over_under_load_and_leaves_nothing_behind() {
    require_all();
    let node = Node::new("new").unwrap();
    let _tracefs = tracefs();
    let etcd = start_etcd("upgraded", node.scratch());
    let before = traces(node.scratch());
    image(); // Making it is no part of this.
    let load = Load { connections: 2, value_bytes: 512, ..Load::default() };
    let load = load.start(etcd.endpoint());
    let pod = node.run(image()).unwrap();
    node.wait_until("readinessProbe", &pod).unwrap();
    let old = held(node.podman(), &pod.container());

    // The same binary under another name: no newer version exists yet.
    let name = format!("{}-next", image().name);
    node.podman().run(&["tag", &image().name, &name]).unwrap();
    let since = Stopwatch::start();
    pod.replace(&node.pod(&name).unwrap()).unwrap();
    node.wait_until("readinessProbe", &pod).unwrap();
    let ready_after = since.elapsed();
    let agreed = Cancel::default().wait_for(Duration::from_mins(3), || {
        let page = Metrics::parse(&node.endpoint().get("/metrics")?.text()?)?;
        let agrees =
            |figure: &Crosscheck| figure.uncertainty.is_some() && figure.agrees() && figure.etcd > 100.0;
        Ok(crosscheck::of(&page, etcd.name()).filter(|figures| figures.iter().any(agrees)))
    });
    let agreed = agreed.unwrap().unwrap_or_else(|| panic!("difference 0 is not reached: {}", pod.log()));
    let agreed_after = since.elapsed();
    println!("ready again after {ready_after:?}, difference 0 under load after {agreed_after:?}: {agreed:?}");
    assert_nothing_left(&old);
    let puts = load.so_far().puts;
    load.stop().unwrap();
    crosscheck::settle_at(node.endpoint(), etcd.name()).unwrap();
    let took = since.stop();
    println!("{puts} puts meanwhile; matched to the last event after {took}");
    assert!(took.when_idle() < Duration::from_mins(1), "{took}");

    let new = held(node.podman(), &pod.container());
    pod.remove().unwrap();
    node.podman().run(&["rmi", "--all", "--force"]).unwrap();
    assert_nothing_left(&new);
    let left: Vec<_> = traces(node.scratch()).difference(&before).cloned().collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "no file and no mount");
}
