r"""The harness that drives the real containerd, for tests and benchmarks; the product never imports it.

| module | what it owns |
|---|---|
| `mirrors`, `packages` | where Debian's packages come from, and how they are had without installing any |
| `fetch` | containerd's, runc's and WasmEdge's binaries out of such packages |
| `containerd` | one running containerd with its own root, state, sockets, configuration and log |
| `network` | the pods' network: a CNI plugin of ours |
| `guardian` | the end of everything a containerd leaves behind, also when the tests themselves are killed |
| `cgroups` | cgroups for pods, made as the kubelet would make them |
| `oci` | images written by hand |
| `cri`, `events` | the client of the Container Runtime Interface, and the following of its events |
| `protos` | message classes straight from a .proto file, in a pool of their own |
| `streaming`, `websocket`, `spdy`, `upgrade` | the streams behind exec, attach and port-forward |
| `ctr` | the command-line clients `ctr` and `crictl` |

A test starts with `Containerd`, and the rest hangs off it:

    with Containerd({"wasm-sandboxer": socket}, path=[folder_of_the_shim]) as containerd:
        image = containerd.import_image(oci.build(archive, "localhost/hello:1", [layer], entrypoint=["/a.wasm"]))
        pod = containerd.cri.run_pod("hello")
        container = containerd.cri.run(pod, image.reference, args=["world"])
        assert containerd.cri.wait_exit(container).exit_code == 0
        assert containerd.cri.output(container) == b"hello world\n"
"""
