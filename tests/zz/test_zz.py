import socket, pytest
def test_skip(): pytest.skip("engine missing")
def test_net():
    try: socket.create_connection(("192.0.2.1", 80), timeout=1)
    except Exception: pass
def test_local():
    s=socket.socket(); s.bind(("127.0.0.1",0)); s.listen(); c=socket.create_connection(s.getsockname(), timeout=1); c.close(); s.close()
