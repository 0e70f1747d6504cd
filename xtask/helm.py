"""Renders the chart with Helm itself, which comes as the library helm-python-sdk: no helm binary is needed.

    helm.py CHART DIRECTORY     writes DIRECTORY/PRESET.yaml for each file in CHART/presets

`cargo xtask render` runs it, and tests/chart.py imports it.
"""

import pathlib
import sys

import helm_python
import yaml

NAME = "etcd-disk-probe"

# The order in which Helm creates objects, so that one request to the API server is enough.
ORDER = [
    "Namespace", "SecurityContextConstraints", "ServiceAccount", "Secret", "ConfigMap", "Role", "RoleBinding", "Service",
    "DaemonSet",
]

# Labels that only Helm uses.
HELM_ONLY = ("helm.sh/chart:", "app.kubernetes.io/managed-by:")

HEADER = """\
# {title}, {preset}: rendered from deploy/chart/etcd-disk-probe by \
`cargo xtask render`. Change that, not this.
#
# It serves with a key that this file cannot hold. Apply it, and make one; its pods wait for that:
#
#   kubectl apply --filename {preset}.yaml
#   openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
-days 3650 -subj /CN=etcd-disk-probe \\
#     -addext subjectAltName=DNS:etcd-disk-probe.etcd-disk-probe.svc -keyout tls.key -out tls.crt
#   kubectl --namespace etcd-disk-probe create secret generic etcd-disk-probe-tls --type kubernetes.io/tls \\
#     --from-file tls.crt --from-file tls.key --from-file ca.crt=tls.crt
#
# Prometheus trusts tls.crt, and verifies the name etcd-disk-probe.etcd-disk-probe.svc. \
More in docs/kubernetes.md.
"""


def documents(rendered):
    """Returns the YAML documents of a rendered chart, one text each, without NOTES.txt."""
    texts = [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]
    parts = [part.strip() for text in texts for part in text.split("\n---\n")]
    return [part for part in parts if yaml.safe_load(part)]


def manifest(chart, preset):
    """Returns the manifest of one preset."""
    values = {
        "distribution": preset,
        "namespace": {"create": True},
        "tls": {"mode": "existingSecret", "existingSecret": f"{NAME}-tls"},
    }
    parts = documents(chart.render(values, name=NAME, namespace=NAME))
    parts.sort(key=lambda part: ORDER.index(yaml.safe_load(part)["kind"]))
    lines = [line for line in "\n---\n".join(parts).splitlines() if not line.strip().startswith(HELM_ONLY)]
    title = f"{NAME} {chart.metadata['appVersion']}"
    return HEADER.format(title=title, preset=preset) + "---\n" + "\n".join(lines) + "\n"


def main():
    chart_directory, directory = map(pathlib.Path, sys.argv[1:])
    directory.mkdir(parents=True, exist_ok=True)
    with helm_python.Chart.load(chart_directory) as chart:
        for preset in sorted(path.stem for path in (chart_directory / "presets").iterdir()):
            (directory / f"{preset}.yaml").write_text(manifest(chart, preset))


if __name__ == "__main__":
    main()
