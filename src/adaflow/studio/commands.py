"""What `adaflow studio` does: serve the page until it is stopped."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

from ..admission import address_of, read_password
from ..cache import cache_folder
from ..console import err
from ..errors import ConfigError, InputError, MissingError, WorkspaceError
from ..lock import Lock
from .place import Place

PASSWORD = "ADAFLOW_STUDIO_PASSWORD"


def serve_studio(
    host: str, port: int, expose: bool, password_file: Path | None, folder: Path | None, max_upload_mb: int
) -> None:
    """`adaflow studio`.

    Raises:
        MissingError: gradio is not installed.
        InputError: the address cannot be used, or would expose the studio without a password.
    """
    if max_upload_mb < 1:
        raise ConfigError(f"--max-upload-mb is {max_upload_mb}; it must be at least 1")
    family, address, alone = address_of(host, port)
    password = read_password(password_file, PASSWORD)
    if not alone and not (expose and password):
        raise InputError(
            f"--host {host} lets other machines in: that needs --expose, and a password given with --password-file or "
            f"in the environment as {PASSWORD}"
        )
    try:
        from .app import make_app, make_server
    except ImportError as error:
        raise MissingError(
            f'the studio needs gradio ({error}); install it with: pip install "adaflow[studio]"'
        ) from error
    from .desk import Desk

    place = Place(folder or cache_folder() / "studio")
    try:
        place.make()
        lock = Lock.take(place.root)
    except WorkspaceError as error:
        raise InputError(f"another studio runs in {place.root}; stop it, or take another folder") from error
    except OSError as error:
        raise InputError(f"{place.root} cannot be used ({error.strerror}); choose another with --folder") from error
    try:
        desk = Desk(place, max_upload_mb * 1_000_000)
        desk.worker.recover()
        app = make_app(desk, password)
        with _listening(family, address, port) as listener:
            shown = f"[{address}]" if ":" in address else address
            print(f"http://{shown}:{listener.getsockname()[1]}/", flush=True)
            err.print(
                f"videos and edits are kept in {place.root}; stop with Ctrl+C: what runs goes on at the next start"
            )
            desk.worker.start()
            gc.collect()
            gc.freeze()  # what is there now stays; looking it through when figures are thrown away takes 0.3 s
            try:
                make_server(app).run(sockets=[listener])
            except KeyboardInterrupt:
                pass
            finally:
                desk.stop()
    finally:
        lock.release()


def _listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """A socket that listens there."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(f"port {port} of {address} cannot be used ({error}); choose another with --port") from error
    return listener
