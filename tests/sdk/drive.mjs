// Drives a control plane with the official TypeScript SDK: every method of the instances resource, its
// sub-resources, the ingresses and the snapshots, where they succeed and where they fail.

import assert from "node:assert/strict";
import Hypeman from "@onkernel/hypeman";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new Hypeman({ baseURL, apiKey, maxRetries: 0 });
const { instances, ingresses, snapshots } = client;

async function refused(status, code, call) {
  let error;
  try {
    await call();
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error, `${status} ${code} was expected`);
  assert.deepEqual([error.status, error.error?.code], [status, code], String(error));
}

const capabilities = await client.capabilities.get();
const withMemory = capabilities.runtimes[0].features.includes("snapshot");
assert.equal((await client.health.check()).status, "ok");

const plain = { image: "wakegate/hello", size: "256MB", vcpus: 1, env: { HELLO_EXIT_WITH_PARENT: "1" } };
const one = await instances.create({
  name: "ts-one",
  tags: { team: "core" },
  auto_standby: { enabled: true, idle_timeout: "1m" },
  ...plain,
});
assert.equal(one.auto_standby.idle_timeout, "1m0s");
await refused(400, "name_conflict", () => instances.create({ name: "ts-one", ...plain }));
await refused(400, "invalid_size", () => instances.create({ name: "ts-bad", ...plain, size: "1.5GB" }));
const waited = await instances.wait(one.id, { state: "Running", timeout: "60s" });
assert.deepEqual(waited, { state: "Running", timed_out: false });
await refused(400, "invalid_timeout", () => instances.wait(one.id, { state: "Running", timeout: "0s" }));

assert.deepEqual((await instances.list({ state: "Running", tags: { team: "core" } })).map((i) => i.id), [one.id]);
assert.equal((await instances.get("ts-one")).id, one.id);
await refused(404, "not_found", () => instances.get("nobody"));
const policy = { enabled: true, idle_timeout: "90s", ignore_source_cidrs: ["10.1.2.3/8"] };
const updated = await instances.update(one.id, { auto_standby: policy });
assert.deepEqual(updated.auto_standby, { enabled: true, idle_timeout: "1m30s", ignore_source_cidrs: ["10.0.0.0/8"] });
await refused(400, "invalid_request", () => instances.update(one.id, {}));

assert.equal((await instances.stats(one.id)).instance_name, "ts-one");
assert.equal((await instances.stat(one.id, { path: "/" })).is_dir, true);
assert.equal((await instances.autoStandby.status(one.id)).eligible, true);
assert.ok((await instances.autoStandby.hold(one.id)).hold_until);

const asleep = await instances.standby(one.id);
assert.equal(asleep.state, "Standby");
await refused(409, "instance_in_standby", () => instances.autoStandby.hold(one.id));
await refused(409, "invalid_state", () => instances.start(one.id, {}));
await refused(409, "invalid_state", () => instances.stat(one.id, { path: "/" }));
assert.equal((await instances.restore(one.id)).state, "Running");
assert.equal((await instances.start(one.id, {})).state, "Running");
// As its own documentation has it, without a body.
assert.equal((await instances.start(one.id)).state, "Running");
const lines = [];
for await (const line of await instances.logs(one.id, { source: "hypeman", tail: 50 })) lines.push(line);
assert.ok(lines.some((line) => line.includes("standby")), lines.join("\n"));

await refused(404, "not_found", () => instances.snapshots.restore("nothing", { id: one.id }));
await refused(404, "not_found", () => snapshots.get("nothing"));
await refused(409, "conflict", () => instances.snapshots.create(one.id, { kind: "Stopped" }));
if (withMemory) {
  const kept = await instances.snapshots.create(one.id, { kind: "Standby", name: "ts-kept", tags: { why: "test" } });
  assert.equal(kept.source_instance_name, "ts-one");
  assert.deepEqual((await snapshots.list({ tags: { why: "test" } })).map((s) => s.id), [kept.id]);
  await instances.standby(one.id);
  assert.equal((await instances.snapshots.restore(kept.id, { id: one.id })).state, "Running");
  const made = await snapshots.fork(kept.id, { name: "ts-made" });
  assert.equal(made.state, "Running");
  await instances.delete(made.id);
  await snapshots.delete(kept.id);
} else {
  await refused(501, "not_supported", () => instances.snapshots.create(one.id, { kind: "Standby" }));
}
await refused(404, "not_found", () => instances.snapshotSchedule.get(one.id));
const schedule = { interval: "1h", retention: { max_count: 7 }, name_prefix: "nightly" };
assert.equal((await instances.snapshotSchedule.update(one.id, schedule)).interval, "1h0m0s");
assert.equal((await instances.snapshotSchedule.get(one.id)).name_prefix, "nightly");
await instances.snapshotSchedule.delete(one.id);
const short = { interval: "10s", retention: { max_count: 1 } };
await refused(400, "invalid_request", () => instances.snapshotSchedule.update(one.id, short));
await refused(500, "not_implemented", () => instances.volumes.attach("v1", { id: one.id, mount_path: "/data" }));
await refused(500, "not_implemented", () => instances.volumes.detach("v1", { id: one.id }));

await refused(409, "invalid_state", () => instances.fork(one.id, { name: "ts-two" }));
assert.equal((await instances.stop(one.id)).state, "Stopped");
await refused(409, "invalid_state", () => instances.restore(one.id));
const two = await instances.fork(one.id, { name: "ts-two" });
assert.equal(two.state, "Stopped");

const rule = { match: { hostname: "{app}.example.org" }, target: { instance: "{app}", port: 8080 } };
const web = await ingresses.create({ name: "ts-web", rules: [rule], tags: { team: "core" } });
assert.deepEqual(web.rules[0].match, { hostname: "{app}.example.org", port: 80 });
assert.equal((await ingresses.get("ts-web")).id, web.id);
assert.deepEqual((await ingresses.list({ tags: { team: "core" } })).map((i) => i.id), [web.id]);
await refused(409, "already_exists", () => ingresses.create({ name: "ts-web", rules: [rule] }));
await refused(400, "bad_request", () => ingresses.create({ name: "ts-web-2", rules: [] }));
await ingresses.delete(web.id);
await refused(404, "not_found", () => ingresses.delete(web.id));

await instances.delete(two.id);
await instances.delete(one.id, { graceful_shutdown: false });
await refused(404, "not_found", () => instances.delete(one.id));
console.log("every answer is what the SDK expects");
