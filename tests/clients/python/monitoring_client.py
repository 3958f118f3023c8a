import asyncio
import json
import jwt
from datetime import datetime, timedelta
import websockets

async def main():
    # Generate JWT token
    token = jwt.encode(
        {
            'user_id': 'user123',
            'exp': datetime.utcnow() + timedelta(hours=1),
        },
        'your-secret-key',
        algorithm='HS256'
    )
    
    # Connect to server
    async with websockets.connect('ws://localhost:8765') as websocket:
        # Receive welcome message
        welcome = json.loads(await websocket.recv())
        print(f"Connected: {welcome}")
        
        # Authenticate
        await websocket.send(json.dumps({
            'type': 'AUTHENTICATE',
            'token': token,
        }))
        auth_response = json.loads(await websocket.recv())
        print(f"Authenticated: {auth_response}")
        
        # Subscribe to property
        await websocket.send(json.dumps({
            'type': 'SUBSCRIBE',
            'property_id': '1012650001',
        }))
        sub_response = json.loads(await websocket.recv())
        print(f"Subscribed: {sub_response}")
        
        # Listen for updates
        while True:
            message = json.loads(await websocket.recv())
            print(f"Received: {message}")

asyncio.run(main())
