"""Renders the chart for every case on its input and validates the result, in one process for all cases.

Standard input, in JSON: {"chart": directory, "cases": {name: {"values": {…}, "version": "oldest",
"secrets": {name: {…}}}}}.
Standard output: {"versions": […], "lint": {name: […]}, "cases": {name: {"error": "…"} or {"objects": […],
"problems": […], "notes": "…"}}}.

`version` is the Kubernetes version for rendering and validation: `oldest` or `newest` of the available schemas.
`secrets` are the secrets that exist in the cluster.
"""

import functools
import http.server
import json
import pathlib
import sys
import threading

import helm_python
import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "xtask"))
import helm  # noqa: E402

VERSIONS = sorted(set(utils.all_versions()), key=utils.Version)

# Read and parsed once per file, not per object.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)
utils.all_versions = functools.lru_cache(maxsize=None)(utils.all_versions)

# Kubernetes' own schemas contain no custom resources.
CUSTOM = yaml.safe_load((HERE / "custom-resources.yaml").read_text())


class Cluster(http.server.BaseHTTPRequestHandler):
    """The part of an API server that the template function `lookup` queries: secrets by name."""

    protocol_version = "HTTP/1.1"
    secrets = {}

    def do_GET(self):
        path = self.path.split("?")[0]
        resource = {"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get"]}
        secret = self.secrets.get(path.removeprefix(f"/api/v1/namespaces/{helm.NAME}/secrets/"))
        if path == "/api/v1":
            status, answer = 200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]}
        elif secret:
            status, answer = 200, secret
        else:
            status, answer = 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def problems(item, version):
    """Returns the errors of an object; an object without a schema is an error, too."""
    name = f"{item['kind']} {item['metadata']['name']}"
    try:
        if schema := CUSTOM.get(f"{item['apiVersion']}/{item['kind']}"):
            jsonschema.Draft202012Validator(schema).validate(item)
        else:
            kubernetes_validate.validate(item, version, strict=True)
    except jsonschema.ValidationError as error:
        return [f"{name}: {'.'.join(map(str, error.path))}: {error.message}"]
    except utils.SchemaNotFoundError as error:
        return [f"{name}: {error.message}"]
    return []


@functools.lru_cache(maxsize=None)
def problems_of_text(text, version):
    """Caches the result: many cases contain the same objects."""
    return problems(json.loads(text), version)


def examine(chart, config, case):
    """Renders one case."""
    values = dict(case["values"])
    version = VERSIONS[0] if case.get("version") == "oldest" else VERSIONS[-1]
    values.setdefault("kubeTargetVersionOverride", version)
    Cluster.secrets = case.get("secrets", {})
    try:
        if "secrets" in case:
            rendered = config.render(chart, values, name=helm.NAME, namespace=helm.NAME)
        else:
            rendered = chart.render(values, name=helm.NAME, namespace=helm.NAME)
    except helm_python.HelmError as error:
        return {"error": str(error)}
    objects = [yaml.safe_load(text) for text in helm.documents(rendered)]
    texts = [json.dumps(item, sort_keys=True) for item in objects]
    wrong = [problem for text in texts for problem in problems_of_text(text, version)]
    notes = next((text for name, text in rendered.items() if name.endswith("NOTES.txt")), "")
    return {"objects": objects, "problems": wrong, "notes": notes}


def lint(directory, values):
    """Returns Helm's lint messages above level 1, a hint (the chart has no icon)."""
    report = helm_python.lint(directory, values, strict=True)
    return [f"{message['path']}: {message['error']}" for message in report["messages"] if message["severity"] != 1]


def main():
    asked = json.load(sys.stdin)
    directory = asked["chart"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = helm_python.Config(namespace=helm.NAME, kube_apiserver=f"http://127.0.0.1:{server.server_port}")
    with helm_python.Chart.load(directory) as chart:
        cases = {name: examine(chart, config, case) for name, case in asked["cases"].items()}
    lints = {name: lint(directory, case["values"]) for name, case in asked["cases"].items() if case.get("lint")}
    json.dump({"versions": VERSIONS, "lint": lints, "cases": cases}, sys.stdout)


if __name__ == "__main__":
    main()
