"""For ``include()``: the hook, at the path of the including pattern."""

from django.urls import path

from . import hook

urlpatterns = [path("", hook, name="asyncjob-slacker-hook")]
