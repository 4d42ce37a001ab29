"""Renders the Helm chart with Helm's own engine and checks every manifest against Kubernetes' schemas.

kubernetes.py DEPLOY OUTPUT writes each ConfigMap's wakegate.toml to OUTPUT.
"""

import itertools
import pathlib
import subprocess
import sys

import helm_python as helm
import yaml

deploy, output = map(pathlib.Path, sys.argv[1:])
chart_dir = deploy / "helm" / "wakegate"
# A release may be called like the chart itself.
NAMES = ("edge", "wakegate")
VALUES = {
    "default": {},
    "everything": {
        "replicas": 3,
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "tls": {"existingSecret": "edge-tls"},
        "env": [{"name": "WAKEGATE_WAKE_TIMEOUT", "value": "5s"}],
        "hostNetwork": True,
        "podAnnotations": {"example.com/a": "b"},
        "service": {"type": "LoadBalancer", "annotations": {"example.com/c": "d"}},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "one": {"replicas": 1, "dashboard": False},
}


def check(manifest: pathlib.Path) -> None:
    tool = pathlib.Path(sys.executable).with_name("kubernetes-validate")
    subprocess.run([tool, "--strict", "-k", "1.29.0", manifest], check=True, capture_output=True)


def kinds(documents):
    return sorted(document["kind"] for document in documents)


def check_pods(documents):
    """A Service's variables are no settings: no pod is given any."""
    deployments = [document for document in documents if document["kind"] == "Deployment"]
    assert deployments
    for deployment in deployments:
        assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False, deployment["metadata"]


def render(chart, name, values):
    rendered = chart.render(values=values, name=name)
    return [
        document
        for path, text in rendered.items()
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


linted = helm.lint(str(chart_dir))
assert not linted["errors"], linted
for name in ("gateway.yaml", "sidecar.yaml"):
    check(deploy / "kubernetes" / name)
    check_pods(list(yaml.safe_load_all((deploy / "kubernetes" / name).read_text())))
with helm.Chart.load(chart_dir) as chart:
    for release, (name, values) in itertools.product(NAMES, VALUES.items()):
        documents = render(chart, release, values)
        expected = ["ConfigMap", "Deployment", "Service"]
        expected += ["PodDisruptionBudget"] if values.get("replicas", 2) > 1 else []
        expected += ["PodMonitor"] if "podMonitor" in values else []
        assert kinds(documents) == sorted(expected), (name, kinds(documents))
        check_pods(documents)
        known = [document for document in documents if document["kind"] != "PodMonitor"]
        manifest = output / f"{release}-{name}.yaml"
        manifest.write_text(yaml.safe_dump_all(known))
        check(manifest)
        for document in documents:
            if document["kind"] == "ConfigMap":
                (output / f"{name}.toml").write_text(document["data"]["wakegate.toml"])
    for wrong in ({"replicas": 0}, {"replica": 2}, {"service": {"type": "Ingress"}}):
        try:
            chart.render(values=wrong, name="edge")
        except helm.HelmError:
            continue
        raise AssertionError(f"{wrong} was rendered")
with open(deploy / "kubernetes" / "gateway.yaml") as file:
    config = next(yaml.safe_load_all(file))
    (output / "gateway.toml").write_text(config["data"]["wakegate.toml"])
print("every manifest is valid")
