"""The library broken in one line at a time, each of which some test must notice.

    $ make mutants                 all of them
    $ make mutants ONLY=savepoint  those whose name or file says so

``table`` lists them. A copy of the project is changed, never the checkout.
"""
