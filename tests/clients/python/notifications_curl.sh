curl http://localhost:8000/health

curl -X POST http://localhost:8000/notify \
  -H "Content-Type: application/json" \
  -d '{
    "message": "Hello, WebSocket clients!",
    "type": "alert",
    "data": {"priority": "high"}
  }'

curl http://localhost:8000/metrics

curl http://localhost:8000/metrics/prometheus

curl http://localhost:8000/status
