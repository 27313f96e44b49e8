"""Orders over HTTP: a job is inserted in the transaction of its order."""

from __future__ import annotations

import json

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from millhand.contrib.django import client
from shop.jobs import Confirm
from shop.models import Order
from shop.tasks import report as report_task


class CardDeclined(Exception):
    pass


@csrf_exempt
@require_http_methods(["GET", "POST"])
def orders(request: HttpRequest) -> HttpResponse:
    """List the orders, or store one."""
    if request.method == "GET":
        return JsonResponse({"orders": list(Order.objects.order_by("pk").values())})
    asked = json.loads(request.body)
    try:
        with transaction.atomic():
            order = Order.objects.create(customer=asked["customer"])
            client().insert(Confirm(order.pk))
            if asked.get("card") == "declined":
                raise CardDeclined
    except CardDeclined:  # the rollback removed the order and its job
        return JsonResponse({"error": "card declined"}, status=402)
    return JsonResponse({"id": order.pk}, status=201)


@csrf_exempt
@require_POST
def reports(request: HttpRequest) -> HttpResponse:
    """Request a report."""
    result = report_task.enqueue(json.loads(request.body)["customer"])
    return JsonResponse({"id": result.id}, status=202)


@require_GET
def report(_: HttpRequest, result_id: str) -> HttpResponse:
    """Return the state of a report."""
    result = report_task.get_result(result_id)
    value = result.return_value if result.status == "SUCCESSFUL" else None
    return JsonResponse({"status": result.status, "value": value})
