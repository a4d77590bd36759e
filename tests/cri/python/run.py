"""Runs the tests of this folder against a daemon:

    run.py ENDPOINT PROTO REGISTRY [WORD...]

ENDPOINT as crictl takes it, PROTO the path of `runtime.proto`, REGISTRY an address to push images to and
to pull them from. With words only the tests whose names hold one of them. Classes run side by side, the
tests of a class one after the other. Ends with one line `N passed, N failed, N skipped` and the exit
code 0 only where none failed and at least one passed.
"""

import concurrent.futures
import os
import shutil
import sys
import tempfile
import time
import traceback
import unittest

import cri
import registry

#: Classes at a time.
WORKERS = 6
#: Made and pulled once, run by most containers.
NAME = "second/base"


class Result(unittest.TestResult):
    """What came of one class, as lines to print."""

    def __init__(self):
        super().__init__()
        self.lines, self.passed, self.begun = [], 0, time.monotonic()

    def startTest(self, test):
        super().startTest(test)
        self.begun = time.monotonic()

    def _line(self, word, test, text=""):
        spent = time.monotonic() - self.begun
        self.lines.append(f"{word} {test.id()} ({spent:.2f} s){text}")

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1
        self._line("ok", test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._line("FAILED", test, "\n" + self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self._line("FAILED", test, "\n" + self.errors[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            text = "".join(traceback.format_exception(*err))
            self._line("FAILED", subtest, "\n" + text)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._line("skipped", test, f": {reason}")

    def failed(self):
        return len(self.failures) + len(self.errors) + len(self.unexpectedSuccesses)


def classes(folder, words):
    """The test classes of the folder with the tests that were asked for."""
    found = {}

    def walk(suite):
        for test in suite:
            if isinstance(test, unittest.TestSuite):
                walk(test)
            elif not words or any(word in test.id() for word in words):
                found.setdefault(type(test), []).append(test)

    loader = unittest.TestLoader()
    walk(loader.discover(folder, pattern="test_*.py"))
    if loader.errors:
        sys.exit("\n".join(loader.errors))
    return found


def run(tests):
    result = Result()
    unittest.TestSuite(tests).run(result)
    return result


def main():
    endpoint, proto, address, *words = sys.argv[1:]
    folder = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as generated:
        cri.load(proto, generated)
        cri.connect(endpoint)
        store = registry.Registry(address)
        cri.REGISTRY, cri.BASE = store, registry.base_layer()
        store.push(NAME, ["1"], [cri.BASE], {"Env": ["PATH=/bin"], "Cmd": ["sh"]})
        cri.IMAGE = store.reference(NAME, "1")
        cri.cri.PullImage(image={"image": cri.IMAGE})
        os.makedirs(cri.FOLDER, exist_ok=True)
        passed = failed = skipped = 0
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            jobs = [pool.submit(run, tests) for tests in classes(folder, words).values()]
            for job in concurrent.futures.as_completed(jobs):
                result = job.result()
                print("\n".join(result.lines), flush=True)
                passed += result.passed
                failed += result.failed()
                skipped += len(result.skipped)
        cri.cri.RemoveImage(image={"image": cri.IMAGE})
        shutil.rmtree(cri.FOLDER)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
