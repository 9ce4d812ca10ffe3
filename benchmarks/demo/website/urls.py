"""The URLs of the website."""

from django.contrib import admin
from django.urls import include, path

from benchmarks.demo.website import views

urlpatterns = [
    path("favicon.ico", views.no_icon),
    path("", views.index, name="index"),
    path("start/", views.start, name="start"),
    path("as/<name>/", views.sign_in, name="sign-in"),
    path("tasks/", include("taskstate.urls")),
    path("admin/", admin.site.urls),
]
