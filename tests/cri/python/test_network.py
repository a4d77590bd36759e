"""The network of pods: addresses, ports, and the node's own network."""

import contextlib
import ctypes
import glob
import os
import socket
import threading

from cri import LIMIT, Suite, namespaces, wait

CLONE_NEWNET = 0x40000000
SERVER = "httpd -f -p 80 -h /www &"


def page(address, port, host="x"):
    """Fetches the page that the test image serves; None while nobody listens."""
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        with socket.create_connection((address, port), timeout=LIMIT) as stream:
            stream.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            stream.settimeout(LIMIT)
            text = b""
            while chunk := stream.recv(4096):
                text += chunk
            return text
    return None


def own_address():
    """An address of this node that is neither loopback's nor the bridge's alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.88.255.254", 9))
        return probe.getsockname()[0]


def bound_to_53():
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", 53))
    return receiver


def inside(suite, id, action):
    """What `action` makes on a thread in the network of a container."""
    link = suite.exec(id, "readlink", "/proc/self/ns/net")
    path = next(path for path in glob.glob("/proc/[0-9]*/ns/net") if link_of(path) == link)
    made = []

    def run():
        with open(path, "rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        made.append(action())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return made[0]


def link_of(path):
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None


class Ports(Suite):
    def serves(self, address, port):
        self.assertIn(b"a page", wait(f"a page from {address}:{port}", lambda: page(address, port)))

    def test_a_container_port_is_reached_at_the_pod_s_address(self):
        pod = self.pod(port_mappings=[{"container_port": 80}])
        self.stay(pod, SERVER)
        self.serves(self.pod_status(pod.id).network.ip, 80)

    def test_a_host_port_is_reached_at_the_node(self):
        pod = self.pod(port_mappings=[{"container_port": 80, "host_port": 12101}])
        self.stay(pod, SERVER)
        self.serves("127.0.0.1", 12101)
        self.serves(own_address(), 12101)

    def test_a_host_port_of_one_address_is_reached_only_there(self):
        mapping = {"container_port": 80, "host_port": 12102, "host_ip": "127.0.0.1"}
        pod = self.pod(port_mappings=[mapping])
        self.stay(pod, SERVER)
        self.serves("127.0.0.1", 12102)
        self.assertIsNone(page(own_address(), 12102))

    def test_a_host_port_is_free_when_its_pod_has_stopped(self):
        mapping = [{"container_port": 80, "host_port": 12103}]
        first = self.pod(port_mappings=mapping)
        self.stay(first, SERVER)
        self.serves("127.0.0.1", 12103)
        self.cri.StopPodSandbox(pod_sandbox_id=first.id)
        self.assertIsNone(page("127.0.0.1", 12103))
        second = self.pod(port_mappings=mapping)
        self.stay(second, SERVER)
        self.serves("127.0.0.1", 12103)

    def test_udp_has_its_ports_too(self):
        mapping = {"protocol": "UDP", "container_port": 53, "host_port": 12104}
        pod = self.pod(port_mappings=[mapping])
        receiver = inside(self, self.stay(pod), bound_to_53)
        self.addCleanup(receiver.close)
        receiver.settimeout(LIMIT)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for address in ("127.0.0.1", own_address()):
                sender.sendto(address.encode(), (address, 12104))
                self.assertEqual(receiver.recv(100), address.encode())

    def test_two_ports_of_one_pod(self):
        pod = self.pod(
            port_mappings=[
                {"container_port": 80, "host_port": 12105},
                {"container_port": 81, "host_port": 12106},
            ]
        )
        self.stay(pod, SERVER + "\nhttpd -f -p 81 -h /www &")
        self.serves("127.0.0.1", 12105)
        self.serves("127.0.0.1", 12106)

    def test_host_port_zero_maps_nothing(self):
        pod = self.pod(port_mappings=[{"container_port": 80, "host_port": 0}])
        self.stay(pod, SERVER)
        self.serves(self.pod_status(pod.id).network.ip, 80)


class Network(Suite):
    def listening(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        return listener

    def test_a_pod_has_a_network_of_its_own(self):
        port = self.listening().getsockname()[1]
        pod = self.pod()
        self.assertNotIn(f":{port} ", self.output(pod, "netstat -ltn"))
        ip = self.pod_status(pod.id).network.ip
        shown = self.output(pod, "ip -o addr show; ip route")
        self.assertIn(f"inet {ip}/", shown)
        self.assertIn("inet 127.0.0.1/8", shown)
        self.assertIn("default via", shown)

    def test_the_node_s_network_where_asked(self):
        port = self.listening().getsockname()[1]
        # What kubelet fills in for such a pod: the node's name.
        pod = self.pod(hostname=socket.gethostname(), linux=namespaces(network="NODE"))
        linux = namespaces(network="NODE")
        self.assertIn(f":{port} ", self.output(pod, "netstat -ltn", linux=linux))
        self.assertEqual(self.output(pod, "hostname", linux=linux), socket.gethostname())
        # kubelet fills in the node's address by itself.
        self.assertEqual(self.pod_status(pod.id).network.ip, "")

    def test_containers_of_a_pod_meet_on_loopback(self):
        pod = self.pod()
        self.stay(pod, SERVER)
        client = self.stay(pod)
        script = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 80 | tail -1"
        wait("a page over loopback", lambda: self.shell_out(client, script) == "a page")
        self.assertEqual(self.shell(client, "readlink /proc/self/ns/net"), self.net_of(pod))

    def shell_out(self, id, script):
        return self.attempt(id, "sh", "-c", script)[1].strip()

    def net_of(self, pod):
        return self.output(pod, "readlink /proc/self/ns/net")

    def test_pods_reach_each_other(self):
        server, client = self.pod(), self.pod()
        self.stay(server, SERVER)
        ip = self.pod_status(server.id).network.ip
        id = self.stay(client)
        script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {ip} 80 | tail -1"
        wait("a page from another pod", lambda: self.shell_out(id, script) == "a page")

    def test_many_pods_at_once_have_addresses_of_their_own(self):
        pods, errors = [], []

        def run():
            try:
                pods.append(self.pod("crowd"))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertFalse(errors)
        addresses = [self.pod_status(pod.id).network.ip for pod in pods]
        self.assertEqual(len(set(addresses)), 6, addresses)

    def test_hosts_file_names_the_pod(self):
        pod = self.pod(hostname="named-host")
        hosts = self.output(pod, "cat /etc/hosts")
        self.assertIn("127.0.0.1", hosts)
        self.assertIn("localhost", hosts)
