"""The script of a process that rolls back (`hand`): the package without its public face and its settings, which take
longer to load than all that a rollback needs.

Arguments: the package's directory, where its libraries are, and what :func:`watcher.hand.main` wants.
"""

import sys
import types

if __name__ == "__main__":
    package = types.ModuleType("watcher")
    package.__path__ = [sys.argv[1]]
    sys.modules["watcher"] = package
    sys.path.insert(0, sys.argv[2])

    from watcher.hand import main

    main()
