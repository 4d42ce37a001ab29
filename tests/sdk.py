"""Drives a control plane with the official Python SDK, validating every answer strictly."""

import sys
import time

from hypeman import Hypeman, ConflictError, NotFoundError

base_url, token = sys.argv[1], sys.argv[2]
client = Hypeman(base_url=base_url, api_key=token, max_retries=0, _strict_response_validation=True)

created = client.instances.create(
    name="sdk-one",
    image="wakegate/hello",
    tags={"team": "core"},
    env={"GREETING": "hi", "HELLO_EXIT_WITH_PARENT": "1"},
    auto_standby={"enabled": True, "idle_timeout": "1m", "ignore_destination_ports": [22]},
)
assert created.name == "sdk-one", created
assert created.auto_standby.idle_timeout == "1m0s", created.auto_standby

listed = client.instances.list(state="Running", tags={"team": "core"})
assert [i.id for i in listed] == [created.id], listed
assert client.instances.list(tags={"team": "none"}) == []
for key in (created.id, "sdk-one", created.id[:12]):
    assert client.instances.get(key).id == created.id

waited = client.instances.wait(created.id, state="Running", api_timeout="5s")
assert waited.state == "Running" and not waited.timed_out, waited

status = client.instances.auto_standby.status(created.id)
assert status.eligible and status.status in ("active", "idle_countdown"), status
held = client.instances.auto_standby.hold(created.id)
assert held.hold_until is not None, held

stats = client.instances.stats(created.id)
assert stats.instance_id == created.id and stats.memory_rss_bytes > 0, stats
assert client.instances.stat(created.id, path="/").is_dir

assert client.instances.standby(created.id).state == "Standby"
try:
    client.instances.auto_standby.hold(created.id)
    raise AssertionError("hold on Standby must be refused")
except ConflictError as error:
    assert error.body["code"] == "instance_in_standby", error.body
assert client.instances.wait(created.id, state="Running").state == "Standby"
assert client.instances.restore(created.id).state == "Running"
assert client.instances.restore(created.id).state == "Running", "a no-op"

assert client.instances.stop(created.id).state == "Stopped"
copy = client.instances.fork(created.id, name="sdk-two")
assert copy.state == "Stopped" and copy.id != created.id, copy
assert client.instances.start(copy.id).state == "Running"
assert client.instances.start(created.id).state == "Running"

lines = list(client.instances.logs(created.id, source="hypeman", tail=50))
assert any("standby" in line for line in lines), lines

updated = client.instances.update(created.id, auto_standby={"enabled": False})
assert updated.auto_standby.enabled is False, updated

ingress = client.ingresses.create(
    name="sdk-web",
    rules=[{"match": {"hostname": "{app}.example.com"}, "target": {"instance": "{app}", "port": 8080}}],
)
assert [i.id for i in client.ingresses.list()] == [ingress.id]
client.ingresses.delete(ingress.id)

for instance in (created, copy):
    client.instances.delete(instance.id)
try:
    client.instances.get(created.id)
    raise AssertionError("a deleted instance must be gone")
except NotFoundError as error:
    assert error.body["code"] == "not_found", error.body
assert client.health.check().status == "ok"
print("every answer is what the SDK expects")
