"""Published weights: the table and the download."""

import http.server
import re
import signal
import subprocess
import sys
import threading

import pytest

import rtmo_engine


class Server:
    """Answers every request with the same bytes, slowly if asked to."""

    def __init__(self, content, pause=0.0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                try:
                    for start in range(0, len(content), 4096):
                        self.wfile.write(content[start : start + 4096])
                        threading.Event().wait(pause)
                except OSError:
                    # The client has had enough.
                    pass

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


def test_the_table():
    models = {model.name: model for model in rtmo_engine.models()}
    assert len(models) == 11 and models["rtmo-s"].input_size == (640, 640) and models["rtmo-s"].keypoints == 17
    assert models["rtmo-l-crowdpose"].keypoints == 14 and models["rtmo-t"].url.endswith("f48f75cb_20231219.pth")
    assert all(model.path is None for model in models.values())


def test_another_file_is_refused(tmp_path):
    server, seen = Server(b"nothing" * 3000), []
    with pytest.raises(rtmo_engine.DownloadError, match="SHA-256"):
        rtmo_engine.download(
            "rtmo-t", tmp_path, mirror=server.address, allow_http=True, progress=lambda come, of: seen.append((come, of))
        )
    assert seen and seen[-1] == (21000, 21000)
    assert not list(tmp_path.glob("*.pth"))


def test_what_is_refused_before_anything_is_asked_for(tmp_path):
    with pytest.raises(rtmo_engine.UsageError, match="model 'rtmo-q' is not a published one"):
        rtmo_engine.download("rtmo-q", tmp_path)
    with pytest.raises(rtmo_engine.DownloadError, match="(?i)http"):
        rtmo_engine.download("rtmo-t", tmp_path, mirror="http://192.0.2.1/")


def test_an_error_of_the_progress_function_ends_the_download(tmp_path):
    def progress(come, of):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        rtmo_engine.download("rtmo-t", tmp_path, mirror=Server(bytes(9000)).address, allow_http=True, progress=progress)


@pytest.mark.skipif(sys.platform == "win32", reason="no timers that raise signals")
def test_ctrl_c_ends_a_download(tmp_path):
    server = Server(bytes(1 << 22), pause=0.05)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            rtmo_engine.download("rtmo-t", tmp_path, mirror=server.address, allow_http=True)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_package_is_small_to_import():
    code = "import sys, rtmo_engine; print([name for name in ('PIL', 'supervision', 'cv2', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_messages_name_what_python_has(tmp_path):
    """No message tells a Python user of an option of the program."""
    import PIL.Image

    large = tmp_path / "large.png"
    PIL.Image.new("1", (16000, 16000)).save(large)
    calls = [
        lambda: rtmo_engine.Engine("rtmo-s"),
        lambda: rtmo_engine.Engine("my-own"),
        lambda: rtmo_engine.Engine(""),
        lambda: rtmo_engine.Engine("rtmo-n-demo", device="cuda"),
        lambda: rtmo_engine.download("rtmo-s", tmp_path, mirror="http://localhost:1"),
        lambda: rtmo_engine.Engine("rtmo-n-demo", size=64).infer(large),
    ]
    for call in calls:
        with pytest.raises(rtmo_engine.Error) as error:
            call()
        text = str(error.value)
        assert not re.search(r"--[a-z]|rtmo-engine (download|models)", text), text
    assert "an array of the pixels may have more" in text
    with pytest.raises(rtmo_engine.UsageError, match=r'rtmo_engine\.download\("rtmo-s"\) fetches it'):
        rtmo_engine.Engine("rtmo-s")
