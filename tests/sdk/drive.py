"""Drives a control plane with the official Python SDK, validating every answer strictly: every method
of the instances resource, its sub-resources, the ingresses and the snapshots, where they succeed and
where they fail."""

import sys

from hypeman import APIStatusError, Hypeman

base_url, token = sys.argv[1], sys.argv[2]
client = Hypeman(base_url=base_url, api_key=token, max_retries=0, _strict_response_validation=True)
instances, ingresses, snapshots = client.instances, client.ingresses, client.snapshots


def refused(status, code, call):
    try:
        call()
    except APIStatusError as error:
        assert (error.status_code, error.body["code"]) == (status, code), error.body
        assert error.body["message"], error.body
    else:
        raise AssertionError(f"{status} {code} was expected")


capabilities = client.capabilities.get()
runtime = capabilities.runtimes[0]
assert runtime.name == capabilities.default_runtime.name and runtime.available
with_memory = "snapshot" in runtime.features
assert client.health.check().status == "ok"

# === Create, list, get, update ===

plain = {"image": "wakegate/hello", "size": "256MB", "vcpus": 1}
one = instances.create(
    name="sdk-one",
    tags={"team": "core", "tier": "a"},
    env={"GREETING": "hi", "HELLO_EXIT_WITH_PARENT": "1"},
    auto_standby={"enabled": True, "idle_timeout": "1m", "ignore_destination_ports": [22]},
    restart_policy={"policy": "on_failure", "backoff": "1s"},
    ttl="1h",
    **plain,
)
assert one.name == "sdk-one" and one.size == "256.0 MB" and one.expires_at is not None, one
assert one.auto_standby.idle_timeout == "1m0s", one.auto_standby
assert one.restart_policy.stable_after == "10m0s", one.restart_policy

for status, code, change in (
    (400, "invalid_size", {"size": "1.5GB"}),
    (400, "invalid_hotplug_size", {"hotplug_size": "1GiB"}),
    (400, "invalid_overlay_size", {"overlay_size": "1Gb"}),
    (400, "invalid_disk_io_bps", {"disk_io_bps": "fast"}),
    (400, "invalid_bandwidth_download", {"network": {"bandwidth_download": "very fast"}}),
    (400, "invalid_request", {"network": {"bandwidth_upload": "1Gbps"}}),
    (400, "invalid_request", {"network": {"egress": {"enabled": True}}}),
    (400, "invalid_request", {"hypervisor": "firecracker"}),
    (400, "invalid_platform", {"platform": "windows/amd64"}),
    (400, "invalid_snapshot_policy", {"snapshot_policy": {"compression": {"enabled": True, "level": 99}}}),
    (400, "name_conflict", {"name": "sdk-one"}),
    (400, "invalid_request", {"name": "Not A Name"}),
    (404, "not_found", {"image": "docker.io/acme/agent:1.4"}),
    (400, "invalid_auto_standby", {"auto_standby": {"enabled": True, "idle_timeout": "1m", "ignore_destination_ports": [70000]}}),
    (400, "invalid_request", {"auto_standby": {"enabled": True}}),
    (400, "invalid_health_check", {"health_check": {"type": "http"}}),
    (400, "invalid_restart_policy", {"restart_policy": {"policy": "always", "backoff": "-1s"}}),
    (400, "invalid_ttl", {"ttl": "soon"}),
    (400, "invalid_expires_at", {"expires_at": "2001-01-01T00:00:00Z"}),
    (400, "invalid_request", {"ttl": "1h", "expires_at": "2101-01-01T00:00:00Z"}),
):
    refused(status, code, lambda: instances.create(**{"name": "sdk-bad", **plain, **change}))

waited = instances.wait(one.id, state="Running", api_timeout="60s")
assert waited.state == "Running" and not waited.timed_out, waited
listed = instances.list(state="Running", tags={"team": "core", "tier": "a"})
assert [i.id for i in listed] == [one.id], listed
assert instances.list(tags={"team": "core", "tier": "b"}) == []
assert instances.list(state="Standby") == []
for key in (one.id, "sdk-one", one.id[:12]):
    assert instances.get(key).id == one.id
refused(404, "not_found", lambda: instances.get("nobody"))

refused(400, "invalid_request", lambda: instances.update(one.id))
refused(400, "invalid_request", lambda: instances.update(one.id, env={"GREETING": "ho"}))
refused(404, "not_found", lambda: instances.update("nobody", ttl="1h"))
updated = instances.update(one.id, ttl="0s", health_check={"tcp": {"port": 8080}, "interval": "1s", "timeout": "1s"})
assert updated.expires_at is None and updated.health_check.type == "tcp", updated
assert updated.health_status.status in ("starting", "healthy"), updated.health_status
assert instances.update(one.id, health_check={"type": "none"}).health_status.status == "disabled"

# === Look ===

status = instances.auto_standby.status(one.id)
assert status.eligible and status.status in ("active", "idle_countdown"), status
assert instances.auto_standby.hold(one.id).hold_until is not None
refused(404, "not_found", lambda: instances.auto_standby.status("nobody"))
stats = instances.stats(one.id)
assert stats.instance_id == one.id and stats.memory_rss_bytes > 0, stats
assert stats.allocated_memory_bytes == 256 << 20, stats
refused(404, "not_found", lambda: instances.stats("nobody"))
assert instances.stat(one.id, path="/").is_dir
assert instances.stat(one.id, path="/bin/sh", follow_links=True).is_file
assert not instances.stat(one.id, path="/nope").exists
refused(400, "invalid_timeout", lambda: instances.wait(one.id, state="Running", api_timeout="-1s"))
refused(400, "invalid_state", lambda: instances.wait(one.id, state="Unknown"))
refused(404, "not_found", lambda: instances.wait("nobody", state="Running"))
assert instances.wait(one.id, state="Stopped", api_timeout="50ms").timed_out
if not with_memory:
    refused(404, "log_not_found", lambda: list(instances.logs(one.id, source="vmm")))

# === Sleep and wake ===

refused(
    400,
    "invalid_snapshot_compression",
    lambda: instances.standby(one.id, compression={"enabled": True, "algorithm": "zstd", "level": 99}),
)
refused(400, "invalid_compression_delay", lambda: instances.standby(one.id, compression_delay="-1s"))
asleep = instances.standby(one.id)
assert asleep.state == "Standby" and asleep.has_snapshot, asleep
assert instances.standby(one.id).state == "Standby", "a no-op"
refused(409, "invalid_state", lambda: instances.standby(one.id, compression={"enabled": False}))
refused(409, "instance_in_standby", lambda: instances.auto_standby.hold(one.id))
refused(409, "invalid_state", lambda: instances.start(one.id))
refused(409, "invalid_state", lambda: instances.stop(one.id))
refused(409, "invalid_state", lambda: instances.stat(one.id, path="/"))
assert instances.wait(one.id, state="Running").state == "Standby", "it does not come by itself"
address = asleep.network.ip
awake = instances.restore(one.id)
assert awake.state == "Running" and not awake.has_snapshot and awake.network.ip == address, awake
assert instances.restore(one.id).state == "Running", "a no-op"
assert instances.start(one.id).state == "Running", "a no-op"
refused(409, "invalid_state", lambda: instances.start(one.id, cmd=["other"]))
refused(404, "not_found", lambda: instances.restore("nobody"))
lines = list(instances.logs(one.id, source="hypeman", tail=50))
assert any("standby" in line for line in lines), lines

# === Snapshots and schedules ===

refused(409, "conflict", lambda: instances.snapshots.create(one.id, kind="Stopped"))
refused(404, "not_found", lambda: instances.snapshots.create("nobody", kind="Standby"))
refused(404, "not_found", lambda: instances.snapshots.restore("nothing", id=one.id))
refused(404, "not_found", lambda: snapshots.get("nothing"))
refused(404, "not_found", lambda: snapshots.delete("nothing"))
refused(404, "not_found", lambda: snapshots.fork("nothing", name="sdk-none"))
if with_memory:
    kept = instances.snapshots.create(one.id, kind="Standby", name="sdk-kept", tags={"why": "test"})
    assert kept.source_instance_id == one.id and kept.size_bytes > 0, kept
    refused(409, "conflict", lambda: instances.snapshots.create(one.id, kind="Standby", name="sdk-kept"))
    assert snapshots.get("sdk-kept").id == kept.id
    assert [s.id for s in snapshots.list(source_instance_id=one.id, kind="Standby", tags={"why": "test"})] == [kept.id]
    assert snapshots.list(kind="Stopped") == []
    refused(409, "invalid_state", lambda: instances.snapshots.restore(kept.id, id=one.id))
    instances.standby(one.id)
    back = instances.snapshots.restore(kept.id, id=one.id, target_state="Standby")
    assert back.state == "Standby", back
    assert instances.snapshots.restore(kept.id, id=one.id).state == "Running"
    refused(409, "name_conflict", lambda: snapshots.fork(kept.id, name="sdk-one"))
    # Memory is the instance's own, and its hypervisor's.
    refused(400, "invalid_request", lambda: instances.snapshots.restore(kept.id, id=one.id, target_hypervisor="qemu-microvm"))
    refused(400, "invalid_request", lambda: snapshots.fork(kept.id, name="sdk-made", target_hypervisor="qemu-microvm"))
    made = snapshots.fork(kept.id, name="sdk-made", target_state="Standby")
    assert made.state == "Standby" and made.network.ip != address, made
    refused(400, "invalid_request", lambda: instances.snapshots.restore(kept.id, id=made.id))
    assert instances.restore(made.id).state == "Running"
    instances.delete(made.id)
    snapshots.delete(kept.id)
    refused(404, "not_found", lambda: snapshots.get(kept.id))
else:
    refused(501, "not_supported", lambda: instances.snapshots.create(one.id, kind="Standby"))

schedule = instances.snapshot_schedule
refused(404, "not_found", lambda: schedule.get(one.id))
refused(404, "not_found", lambda: schedule.delete(one.id))
refused(400, "invalid_request", lambda: schedule.update(one.id, interval="10s", retention={"max_count": 1}))
refused(400, "invalid_request", lambda: schedule.update(one.id, interval="1h", retention={}))
refused(400, "invalid_request", lambda: schedule.update(one.id, interval="1h", retention={"max_count": 0}))
refused(400, "invalid_request", lambda: schedule.update(one.id, interval="1h", retention={"max_age": "-1h"}))
refused(
    400, "invalid_request", lambda: schedule.update(one.id, interval="1h", retention={"max_count": 1}, name_prefix="Bad_!")
)
wanted = {"interval": "1h", "retention": {"max_count": 7, "max_age": "168h"}, "name_prefix": "nightly"}
assert schedule.update(one.id, **wanted).interval == "1h0m0s"
assert schedule.get(one.id).retention.max_age == "168h0m0s"
planned = schedule.get(one.id).next_run_at
again = schedule.update(one.id, interval="60m", retention={"max_count": 1})
assert again.next_run_at == planned, "the same interval keeps its cadence"
schedule.delete(one.id)

# === Volumes, as upstream ===

refused(500, "not_implemented", lambda: instances.volumes.attach("v1", id=one.id, mount_path="/data"))
refused(500, "not_implemented", lambda: instances.volumes.detach("v1", id=one.id))

# === Fork, stop, start ===

refused(409, "invalid_state", lambda: instances.fork(one.id, name="sdk-two"))
refused(400, "invalid_request", lambda: instances.fork(one.id, name="Not A Name"))
if with_memory:
    running = instances.fork(one.id, name="sdk-running", from_running=True)
    assert running.state == "Running" and running.network.ip != address, running
    instances.delete(running.id, graceful_shutdown=False)
else:
    refused(501, "not_supported", lambda: instances.fork(one.id, name="sdk-two", from_running=True))
assert instances.stop(one.id).state == "Stopped"
assert instances.stop(one.id).state == "Stopped", "a no-op"
assert instances.get(one.id).restart_status.blocked_reason == "manual_stop"
refused(409, "invalid_state", lambda: instances.restore(one.id))
refused(409, "invalid_state", lambda: instances.standby(one.id))
two = instances.fork(one.id, name="sdk-two")
assert two.state == "Stopped" and two.id != one.id, two
refused(409, "name_conflict", lambda: instances.fork(one.id, name="sdk-two"))
for instance in (one, two):
    assert instances.start(instance.id).state in ("Running", "Initializing")

# === Ingresses ===

rule = {"match": {"hostname": "{app}.example.com"}, "target": {"instance": "{app}", "port": 8080}}
web = ingresses.create(name="sdk-web", rules=[rule], tags={"team": "core"})
assert web.rules[0].match.port == 80 and web.rules[0].tls is False, web
assert ingresses.get("sdk-web").id == ingresses.get(web.id).id == web.id
assert [i.id for i in ingresses.list(tags={"team": "core"})] == [web.id]
assert ingresses.list(tags={"team": "other"}) == []
refused(409, "already_exists", lambda: ingresses.create(name="sdk-web", rules=[rule]))
refused(409, "hostname_in_use", lambda: ingresses.create(name="sdk-web-2", rules=[rule]))
refused(400, "bad_request", lambda: ingresses.create(name="sdk-web-2", rules=[]))
for hostname in ("api-{app}.example.com", "{app}.{app}.example.com", "*.example.com", "{app}"):
    bad = {**rule, "match": {"hostname": hostname}}
    refused(400, "bad_request", lambda: ingresses.create(name="sdk-web-2", rules=[bad]))
literal = {"match": {"hostname": "api.example.com"}, "target": {"instance": "nobody", "port": 8080}}
refused(400, "instance_not_found", lambda: ingresses.create(name="sdk-web-2", rules=[literal]))
refused(400, "bad_request", lambda: ingresses.create(name="sdk-web-2", rules=[{**rule, "redirect_http": True}]))
ingresses.delete(web.id)
refused(404, "not_found", lambda: ingresses.get(web.id))
refused(404, "not_found", lambda: ingresses.delete(web.id))

for instance in (one, two):
    instances.delete(instance.id)
refused(404, "not_found", lambda: instances.get(one.id))
refused(404, "not_found", lambda: instances.delete(one.id))
print("every answer is what the SDK expects")
