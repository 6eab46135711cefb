"""The hook where it is looked for."""

from django.urls import include, path

urlpatterns = [path("slacker/", include("tgext.asyncjob.slackers.django_backend.urls"))]
