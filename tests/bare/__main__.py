import runpy

import django

if __name__ == "__main__":
    django.setup()
    runpy.run_module("tests.bare.trial")["main"]()
