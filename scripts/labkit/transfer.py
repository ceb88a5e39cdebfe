"""One end of a transfer over plain TCP, run inside a namespace by `scripts/lab links`.

The receiver answers each block with a byte when it has all of it, so the sender's clock sees the whole.
"""

import json
import socket
import sys
import time


def receive(port, senders):
    """Takes blocks from so many senders, one connection each."""
    import threading
    listener = socket.create_server(("0.0.0.0", port))

    def serve(connection):
        with connection:
            while head := connection.recv(8, socket.MSG_WAITALL):
                left = int.from_bytes(head, "big")
                while left:
                    left -= len(connection.recv(min(left, 1 << 16)))
                connection.sendall(b"!")
    print("ready", flush=True)
    threads = []
    for _ in range(senders):
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threads.append(threading.Thread(target=serve, args=(connection,)))
        threads[-1].start()
    for thread in threads:
        thread.join()


def send(address, port, size, rounds, begin):
    """Sends blocks one after another from a moment on; prints when each began and ended."""
    with socket.create_connection((address, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        block = size.to_bytes(8, "big") + bytes(size)

        def once():
            begun = time.time()
            connection.sendall(block)
            connection.recv(1)
            return begun, time.time()
        once()
        time.sleep(max(0.0, begin - time.time()))
        print(json.dumps([once() for _ in range(rounds)]), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["receive", port, senders]:
            receive(int(port), int(senders))
        case ["send", address, port, size, rounds, begin]:
            send(address, int(port), int(size), int(rounds), float(begin))
