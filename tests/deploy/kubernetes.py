"""Renders the Helm chart with Helm's own engine and checks every manifest against Kubernetes' schemas.

kubernetes.py DEPLOY OUTPUT VERSION writes each ConfigMap's wakegate.toml to OUTPUT, and to OUTPUT/links.json the variables that
Kubernetes would make of each release's Service. VERSION is the program's.
"""

import itertools
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import helm_python as helm
import yaml

deploy, output = map(pathlib.Path, sys.argv[1:3])
version = sys.argv[3]
chart_dir = deploy / "helm" / "wakegate"
# A release may be called like the chart itself, have its name inside, be called like a setting, or be as long as Helm allows.
NAMES = (
    "edge",
    "wakegate",
    "wakegate-prod",
    "team-a-wakegate-eu",
    "wakegate-upstream",
    "a-release-whose-name-is-as-long-as-helm-permits-it-53",
)
VALUES = {
    "default": {},
    "everything": {
        "replicas": 3,
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "tls": {"existingSecret": "edge-tls"},
        "env": [{"name": "WAKEGATE_WAKE_TIMEOUT", "value": "5s"}],
        "ports": {"http": 8443, "admin": 9901},
        "podAnnotations": {"example.com/a": "b"},
        "service": {
            "type": "LoadBalancer",
            "annotations": {"example.com/c": "d"},
            "externalTrafficPolicy": "Local",
        },
        "networkPolicy": {
            "httpFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "adminFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
        },
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "one": {"replicas": 1, "dashboard": False, "networkPolicy": {"adminFrom": []}, "preStopSeconds": 0},
    "host": {"hostNetwork": True, "ports": {"http": 8000}, "nodeSelector": {"example.com/hypeman": "true"}},
    "watched-host": {"hostNetwork": True, "ports": {"http": 8000}, "podMonitor": {"enabled": True}},
    "fleet-front": {
        "config": "",
        "fleet": {
            "role": "front",
            "endpoints": ["https://etcd-1:2379", "https://etcd-2:2379"],
            "cell": "eu-1",
            "zone": "eu-a",
            "identitySecret": "fleet-front",
            "etcdSecret": "etcd",
            "sealed": True,
        },
    },
    "fleet-node": {
        "hostNetwork": True,
        "config": '[[hypeman]]\nurl = "http://127.0.0.1:8080"\napi_key_file = "/run/secrets/wakegate/hypeman"\n',
        "fleet": {"role": "node", "endpoints": ["http://etcd:2379"]},
        "env": [{"name": "WAKEGATE_WAKE_TIMEOUT", "value": "5s"}],
    },
}
WRONG = (
    {"replicas": 0},
    {"replica": 2},
    {"service": {"type": "Ingress"}},
    {"ports": {"http": 80}},
    {"networkPolicy": {"from": []}},
    # A node is on its host's network, a front has a certificate, and both have a directory.
    {"fleet": {"role": "node", "endpoints": ["http://etcd:2379"]}},
    {"fleet": {"role": "front", "endpoints": ["http://etcd:2379"]}},
    {"fleet": {"role": "front", "identitySecret": "fleet-front"}},
    {"fleet": {"role": "both"}},
)


def check(manifest: pathlib.Path) -> None:
    tool = pathlib.Path(sys.executable).with_name("kubernetes-validate")
    subprocess.run([tool, "--strict", "-k", "1.30.0", manifest], check=True, capture_output=True)


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector["matchLabels"].items())


def gateway(pod):
    containers = pod.get("initContainers", []) + pod["containers"]
    (one,) = [container for container in containers if container["name"] == "wakegate"]
    return one


def check_image(container):
    """What was loaded into a node runs there, and what runs is what these files were written for."""
    repository, _, tag = container["image"].rpartition(":")
    assert repository.rpartition("/")[2] == "wakegate", container["image"]
    assert tag == version, f"{container['image']}, and the program is {version}"
    assert container["imagePullPolicy"] == "IfNotPresent", container


def addresses(documents, container):
    """Where the gateway listens, by its configuration or its environment: requests, and the operator."""
    for config in of_kind(documents, "ConfigMap"):
        settings = tomllib.loads(config["data"]["wakegate.toml"])
        fleet = settings.get("fleet", {})
        # A node of a fleet is reached by fronts alone.
        at = fleet["listen"] if fleet.get("role") == "node" else settings["listener"][0]["address"]
        return at, settings["admin"]["address"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    return variables["WAKEGATE_LISTENER_ADDRESS"], variables["WAKEGATE_ADMIN_ADDRESS"]


def check_ports(documents, pod, container):
    """What is declared is where it listens, and probes go there."""
    declared = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    first = "fleet" if "fleet" in declared else "http"
    for name, address in zip((first, "admin"), addresses(documents, container)):
        host, _, port = address.rpartition(":")
        assert declared.get(name, int(port)) == int(port), (name, address, declared)
    is_local = addresses(documents, container)[1].startswith("127.0.0.1:")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(name, {}).get("httpGet")
        if probe and is_local:
            # Which is the node's own only on its own network.
            assert pod["hostNetwork"] and probe["host"] == "127.0.0.1", probe
        elif probe:
            assert "host" not in probe, probe
        elif name != "readinessProbe":
            assert container[name]["exec"]["command"] == ["/wakegate", "healthcheck"], container[name]


def check_admin(documents, labels, pod, container, is_watched):
    """The admin port is not open to every pod."""
    if addresses(documents, container)[1].startswith("127.0.0.1:"):
        return
    if pod.get("hostNetwork"):
        # Then an operator has asked for it.
        assert is_watched
        return
    policies = [one["spec"] for one in of_kind(documents, "NetworkPolicy") if selects(one["spec"]["podSelector"], labels)]
    assert policies, "no policy guards the admin port"
    for rule in itertools.chain.from_iterable(policy["ingress"] for policy in policies):
        ports = [port["port"] for port in rule["ports"]]
        assert ports in (["http"], ["admin"]), rule
        assert ports == ["http"] or rule["from"], rule


def check_rollout(workload, pod, container):
    """A rollout ends also where there is one node, and nobody is refused where that can be had."""
    if pod.get("hostNetwork"):
        # Two pods of a Deployment want the same port of the node, and one of them waits for ever.
        assert workload["kind"] == "DaemonSet", workload["metadata"]
        assert workload["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1}
        return
    if workload["spec"].get("strategy"):
        assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        for constraint in pod["topologySpreadConstraints"]:
            assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", constraint
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    # And server.drain_timeout.
    assert pod["terminationGracePeriodSeconds"] > pause + 30


def check_workloads(documents, is_watched=False):
    workloads = of_kind(documents, "Deployment", "DaemonSet")
    assert workloads
    for workload in workloads:
        template = workload["spec"]["template"]
        labels, pod = template["metadata"]["labels"], template["spec"]
        assert selects(workload["spec"]["selector"], labels), workload["metadata"]
        # A Service's variables are no settings: no pod is given any.
        assert pod["enableServiceLinks"] is False, workload["metadata"]
        assert pod["automountServiceAccountToken"] is False, workload["metadata"]
        container = gateway(pod)
        check_image(container)
        check_ports(documents, pod, container)
        check_admin(documents, labels, pod, container, is_watched)
        check_rollout(workload, pod, container)
    for service in of_kind(documents, "Service"):
        for workload in workloads:
            assert selects({"matchLabels": service["spec"]["selector"]}, workload["spec"]["template"]["metadata"]["labels"])


def check_member(documents, name, values):
    """A member of a fleet has its certificate, and a node says where fronts reach it."""
    fleet = values.get("fleet", {})
    (workload,) = of_kind(documents, "Deployment", "DaemonSet")
    pod = workload["spec"]["template"]["spec"]
    container = gateway(pod)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(volumes) == set(mounts), name
    if not fleet:
        assert "identity" not in volumes, name
        return
    (config,) = of_kind(documents, "ConfigMap")
    settings = tomllib.loads(config["data"]["wakegate.toml"])["fleet"]
    assert all(path.startswith(f"{mounts['identity']}/") for path in settings["identity"].values()), settings
    assert settings["snapshot"].startswith(f"{mounts['directory']}/"), settings
    variables = {one["name"]: one for one in container.get("env", [])}
    if fleet["role"] == "node":
        assert "hostPath" in volumes["identity"], volumes
        assert "http" not in [port["name"] for port in container["ports"]], container
        assert variables["WAKEGATE_FLEET_ADVERTISE"]["value"] == "$(HOST_IP):7443", variables
        names = list(variables)
        assert names.index("HOST_IP") < names.index("WAKEGATE_FLEET_ADVERTISE"), "it is filled in only behind"
    else:
        assert volumes["identity"]["secret"]["secretName"] == "fleet-front", volumes
        assert settings["tls"]["ca"].startswith(mounts["etcd"]), settings
        assert settings["key_file"] == "/run/secrets/wakegate/fleet-keys", settings


def check_names(documents):
    for document in documents:
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", document["metadata"]["name"]), document["metadata"]


def expected_kinds(values):
    is_on_host = values.get("hostNetwork", False)
    kinds = ["ConfigMap", "DaemonSet" if is_on_host else "Deployment"]
    kinds += [] if values.get("fleet", {}).get("role") == "node" else ["Service"]
    kinds += [] if is_on_host else ["NetworkPolicy"]
    kinds += ["PodDisruptionBudget"] if not is_on_host and values.get("replicas", 2) > 1 else []
    kinds += ["PodMonitor"] if "podMonitor" in values else []
    return sorted(kinds)


def links(service):
    """The variables that Kubernetes makes for a Service with one port."""
    name = service["metadata"]["name"].upper().replace("-", "_")
    port = service["spec"]["ports"][0]
    host, number = "10.0.0.1", str(port["port"])
    address = f"tcp://{host}:{number}"
    return {
        f"{name}_SERVICE_HOST": host,
        f"{name}_SERVICE_PORT": number,
        f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}": number,
        f"{name}_PORT": address,
        f"{name}_PORT_{number}_TCP": address,
        f"{name}_PORT_{number}_TCP_PROTO": "tcp",
        f"{name}_PORT_{number}_TCP_PORT": number,
        f"{name}_PORT_{number}_TCP_ADDR": host,
    }


def render(chart, name, values):
    rendered = chart.render(values=values, name=name)
    return [
        document
        for path, text in rendered.items()
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def check_chart(chart):
    names, selectors, made = set(), [], {}
    for release, (name, values) in itertools.product(NAMES, VALUES.items()):
        documents = render(chart, release, values)
        kinds = sorted(document["kind"] for document in documents)
        assert kinds == expected_kinds(values), (name, kinds)
        check_names(documents)
        check_workloads(documents, is_watched=values.get("podMonitor", {}).get("enabled", False))
        check_member(documents, name, values)
        known = [document for document in documents if document["kind"] != "PodMonitor"]
        manifest = output / f"{release}-{name}.yaml"
        manifest.write_text(yaml.safe_dump_all(known))
        # A release's name changes nothing of the form.
        if release == NAMES[0]:
            check(manifest)
        for config in of_kind(documents, "ConfigMap"):
            (output / f"{name}.toml").write_text(config["data"]["wakegate.toml"])
        if name == "default":
            (service,) = of_kind(documents, "Service")
            (workload,) = of_kind(documents, "Deployment")
            names.add(service["metadata"]["name"])
            selectors.append((workload["spec"]["selector"], workload["spec"]["template"]["metadata"]["labels"]))
            made[release] = links(service)
    # Releases beside each other have nothing in common.
    assert len(names) == len(NAMES), names
    for (index, (selector, _)), (other, (_, labels)) in itertools.product(enumerate(selectors), repeat=2):
        assert selects(selector, labels) == (index == other), (selector, labels)
    (output / "links.json").write_text(json.dumps(made))
    renamed = render(chart, "edge", {"fullnameOverride": "front"})
    assert {document["metadata"]["name"] for document in renamed} == {"front"}, renamed
    for name, workload in (("default", "deployment/edge-wakegate"), ("host", "daemonset/edge-wakegate")):
        rendered = chart.render(values=VALUES[name], name="edge").items()
        notes = [text for path, text in rendered if path.endswith("NOTES.txt")]
        assert all(f"rollout status {workload}" in text for text in notes), notes
    for wrong in WRONG:
        try:
            chart.render(values=wrong, name="edge")
        except helm.HelmError:
            continue
        raise AssertionError(f"{wrong} was rendered")


metadata = yaml.safe_load((chart_dir / "Chart.yaml").read_text())
assert metadata["version"] == metadata["appVersion"] == version, metadata
linted = helm.lint(str(chart_dir))
assert not linted["errors"], linted
for name in ("gateway", "host", "sidecar"):
    path = deploy / "kubernetes" / f"{name}.yaml"
    check(path)
    documents = list(yaml.safe_load_all(path.read_text()))
    check_names(documents)
    check_workloads(documents)
    for config in of_kind(documents, "ConfigMap"):
        (output / f"manifest-{name}.toml").write_text(config["data"]["wakegate.toml"])
with helm.Chart.load(chart_dir) as chart:
    check_chart(chart)
print("every manifest is valid")
