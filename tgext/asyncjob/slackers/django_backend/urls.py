"""For ``include``: the hook at the path that the including pattern has."""

from django.urls import path

from . import hook

urlpatterns = [path("", hook, name="asyncjob-slacker-hook")]
