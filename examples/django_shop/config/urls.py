"""The URLs of the shop."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders/", views.orders),
    path("reports/", views.reports),
    path("reports/<str:result_id>/", views.report),
]
