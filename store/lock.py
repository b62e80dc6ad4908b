"""Who works on a run: a lock that the system frees when its process ends, however it ends."""

import contextlib
import json
import os
import platform
import time

from store.files import write_json


class Hold:
    """The hold of one process on a run folder."""

    def __init__(self, folder):
        """folder: the RunFolder."""
        self.folder, self.lock, self.made = folder, None, []

    def take(self):
        """Take the run for this process; False if another has it."""
        from filelock import FileLock, Timeout

        path = self.folder.path
        self.made = [folder for folder in (path, *path.parents) if not folder.exists()]
        lock = FileLock(path / ".lock")
        for attempt in range(10):
            try:
                path.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0.5, poll_interval=0.02)
                break
            except Timeout:
                return False
            except (FileNotFoundError, FileExistsError):
                # a process that leaves is just removing the folder it had made
                if attempt == 9:
                    raise
                time.sleep(0.02)
        self.lock = lock
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        me = {"host": platform.node(), "process": os.getpid(), "since": since}
        try:
            write_json(path / "holder.json", me)
        except OSError:
            self.release()
            raise
        return True

    def release(self):
        """Give the run back and leave no trace, nor one of a run that never began."""
        if self.lock is None:
            return
        path, never_began = self.folder.path, not self.folder.config_file.exists()
        with contextlib.suppress(OSError):
            (path / "holder.json").unlink()
        if never_began:
            # before the lock is given back: who gets a lock of a file that is gone asks again
            (path / ".lock").unlink(missing_ok=True)
        self.lock.release()
        self.lock = None
        if never_began:
            with contextlib.suppress(OSError):
                for folder in self.made:
                    folder.rmdir()

    def busy(self):
        """Whether a process works on the run now: a killed one leaves its name, not its lock."""
        from filelock import FileLock, Timeout

        lock = self.folder.path / ".lock"
        if not (self.folder.path / "holder.json").exists() or not lock.exists():
            return False
        try:
            with FileLock(lock, timeout=0):
                return False
        except (Timeout, OSError):
            return True

    def holder(self):
        """Who holds the run, in words."""
        try:
            text = (self.folder.path / "holder.json").read_text(encoding="utf-8")
            who = json.loads(text)
            return f"process {who['process']} on {who['host']} since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
